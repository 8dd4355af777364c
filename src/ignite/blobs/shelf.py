"""The blobs as a shelf: what lies there, and its removal.

Content has one name, so a blob that nobody needs may be wanted again at the very moment it is being
removed. `FileBlobStore` gives a blob that is there already a new time, holding the lock shared;
here the time is compared and the file unlinked, holding it alone. So a put comes before, and the
blob stays, or behind, and writes it anew.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ignite.blobs.files import DRAFT
from ignite.locks import FolderLock
from ignite.ports.shelves import Kept, Removed, ShelfKind

logger = logging.getLogger(__name__)

# A blob has 64 MiB at most: no writer takes this long.
_STALE_SECS = 24 * 3600


class BlobShelf:
    """Implements ports.shelves.Shelf on the folder of a `FileBlobStore`; keys are `org/digest`."""

    kind = ShelfKind.BLOB

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FolderLock(root)

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        """See ports.shelves.Shelf."""
        return await asyncio.to_thread(lambda: list(islice(self._behind(after), limit)))

    async def remove(self, kept: Kept) -> Removed:
        """See ports.shelves.Shelf. Raises FolderBusy."""
        return await asyncio.to_thread(self._remove, kept)

    async def tidy(self) -> Removed:
        """See ports.shelves.Shelf."""
        return await asyncio.to_thread(self._tidy)

    def _behind(self, after: str) -> Iterator[Kept]:
        last_organization, _, last_digest = after.partition("/")
        for organization in _names(self._root):
            if organization < last_organization:
                continue
            behind = last_digest if organization == last_organization else ""
            for start in _names(self._root / organization):
                if start.startswith(DRAFT) or start < behind[: len(start)]:
                    continue
                for rest in _names(self._root / organization / start):
                    if start + rest > behind:
                        yield from self._kept(organization, start, rest)

    def _kept(self, organization: str, start: str, rest: str) -> Iterator[Kept]:
        with contextlib.suppress(OSError):
            about = (self._root / organization / start / rest).stat()
            yield Kept(
                key=f"{organization}/{start}{rest}",
                stamp=(about.st_ino, about.st_mtime_ns),
                modified_at=about.st_mtime,
            )

    def _remove(self, kept: Kept) -> Removed:
        organization, _, digest = kept.key.partition("/")
        folder = self._root / organization / digest[:2]
        path = folder / digest[2:]
        try:
            with self._lock.alone():
                about = path.stat()
                if (about.st_ino, about.st_mtime_ns) != kept.stamp:
                    return Removed()
                path.unlink()
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    folder.parent.rmdir()
        except FileNotFoundError:
            return Removed()
        return Removed(count=1, size_bytes=about.st_size)

    def _tidy(self) -> Removed:
        before = time.time() - _STALE_SECS
        removed = Removed()
        for draft in self._root.glob(f"*/{DRAFT}*"):
            with contextlib.suppress(FileNotFoundError):
                about = draft.stat()
                if about.st_mtime < before:
                    draft.unlink()
                    removed += Removed(count=1, size_bytes=about.st_size)
        return removed


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        # Not ours, such as the `lost+found` of a volume, or damaged: the walk goes on behind it.
        logger.warning("folder not read", extra={"folder": folder.name, "error": error.strerror})
        return []
