"""Artifacts, and the folders compiles work in, as shelves.

An artifact that is there already is given out again only with a new time, under the lock that its
removal takes; so one that comes back to use is either kept or compiled anew, never half there. It
is moved aside first and emptied then: no replica ever starts from a part of it.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ignite.layout import Layout
from ignite.locks import FolderLock, stamp
from ignite.ports.shelves import Kept, Removed, ShelfKind
from ignite.privileges import sync_folder

logger = logging.getLogger(__name__)

_GONE = ".gone-"


class ArtifactShelf:
    """Implements ports.shelves.Shelf on the artifacts; keys are `tag/digest`, tag the tenant's."""

    kind = ShelfKind.ARTIFACT

    def __init__(self, layout: Layout) -> None:
        self._root = layout.artifacts
        self._lock = FolderLock(self._root)

    def keep(self, artifact: Path) -> bool:
        """Tell whether an artifact is there; it is not removed then for a while."""
        with self._lock.shared():
            return _touch(artifact)

    def put(self, made: Path, artifact: Path) -> bool:
        """Move a whole artifact to its name, durably; False where one is there, as good as it."""
        with self._lock.shared():
            artifact.parent.mkdir(mode=0o755, exist_ok=True)
            stamp(made)
            try:
                made.rename(artifact)
            except OSError:
                if not _touch(artifact):
                    raise
                return False
            for folder in (artifact.parent, self._root):
                sync_folder(folder)
        return True

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
        last_tag = after.partition("/")[0]
        for tag in _names(self._root):
            if tag < last_tag:
                continue
            for digest in _names(self._root / tag):
                if f"{tag}/{digest}" > after:
                    yield from _kept(self._root, f"{tag}/{digest}")

    def _remove(self, kept: Kept) -> Removed:
        path = self._root / kept.key
        aside = path.with_name(f"{_GONE}{secrets.token_hex(8)}")
        with self._lock.alone():
            if _stamp(path) != kept.stamp:
                return Removed()
            path.rename(aside)
        removed = _empty(aside)
        with contextlib.suppress(OSError), self._lock.alone():
            path.parent.rmdir()
        return removed

    def _tidy(self) -> Removed:
        removed = Removed()
        for aside in self._root.glob(f"*/{_GONE}*"):
            removed += _empty(aside)
        return removed


class WorkFolderShelf:
    """Implements ports.shelves.Shelf on the work folders of compiles; keys are their names."""

    kind = ShelfKind.WORK_FOLDER

    def __init__(self, layout: Layout) -> None:
        self._root = layout.builds

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        """See ports.shelves.Shelf."""
        return await asyncio.to_thread(lambda: list(islice(self._behind(after), limit)))

    async def remove(self, kept: Kept) -> Removed:
        """See ports.shelves.Shelf."""

        def remove() -> Removed:
            path = self._root / kept.key
            return _empty(path) if _stamp(path) == kept.stamp else Removed()

        return await asyncio.to_thread(remove)

    async def tidy(self) -> Removed:
        """Nothing here is ever half done: every folder is named after its build."""
        return Removed()

    def _behind(self, after: str) -> Iterator[Kept]:
        for name in _names(self._root):
            if name > after:
                yield from _kept(self._root, name)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        # Not ours, such as the `lost+found` of a volume, or damaged: the walk goes on behind it.
        logger.warning("folder not read", extra={"folder": folder.name, "error": error.strerror})
        return []


def _kept(root: Path, key: str) -> Iterator[Kept]:
    with contextlib.suppress(OSError):
        about = (root / key).stat()
        stamp = (about.st_ino, about.st_mtime_ns)
        yield Kept(key=key, stamp=stamp, modified_at=about.st_mtime)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns


def _touch(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    stamp(folder)
    return True


def _empty(folder: Path) -> Removed:
    """Remove a tree; what cannot be removed is left for the next time."""
    size_bytes = 0
    failures: list[str] = []

    def note(_call: Callable[..., object], path: str, _error: object) -> None:
        failures.append(path)

    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                size_bytes += os.lstat(os.path.join(path, name)).st_blocks * 512
    shutil.rmtree(folder, onerror=note)
    if failures:
        logger.warning("not emptied", extra={"folder": folder.name, "entries": len(failures)})
    return Removed() if failures else Removed(count=1, size_bytes=size_bytes)
