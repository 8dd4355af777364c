"""What shelves that are folders on disk have in common.

They look and remove in a thread, and name what they look at by inode and time: what is put once
more gets a new time and is another thing from then on.
"""

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ignite.ports.shelves import Kept, Removed

logger = logging.getLogger(__name__)


class FolderShelf(ABC):
    """The calls of ports.shelves.Shelf over the work of a thread."""

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        """See ports.shelves.Shelf."""
        return await asyncio.to_thread(lambda: list(islice(self._behind(after), limit)))

    async def remove(self, kept: Kept) -> Removed:
        """See ports.shelves.Shelf. Raises FolderBusy."""
        return await asyncio.to_thread(self._remove, kept)

    async def tidy(self) -> Removed:
        """See ports.shelves.Shelf."""
        return await asyncio.to_thread(self._tidy)

    @abstractmethod
    def _behind(self, after: str) -> Iterator[Kept]:
        """Yield what lies behind the key `after`, in the order of keys."""

    @abstractmethod
    def _remove(self, kept: Kept) -> Removed:
        """Remove a thing if it is still the same."""

    def _tidy(self) -> Removed:
        """Remove what was left half done; nothing where no work is ever half done."""
        return Removed()


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder in order; none of one that is not there or cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        # Not ours, such as the `lost+found` of a volume, or damaged: the walk goes on behind it.
        logger.warning("folder not read", extra={"folder": folder.name, "error": error.strerror})
        return []


def kept_at(path: Path, key: str) -> Iterator[Kept]:
    """Yield what lies at `path`, if anything does."""
    with contextlib.suppress(OSError):
        about = path.stat()
        yield Kept(key=key, stamp=stamp_of(about), modified_at=about.st_mtime)


def stamp_of(about: os.stat_result) -> tuple[int, int]:
    """Return what tells a thing from what was there before."""
    return about.st_ino, about.st_mtime_ns
