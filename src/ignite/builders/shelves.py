"""Artifacts, and the folders compiles work in, as shelves.

An artifact that is there already is given out again only with a new time, under the lock that its
removal takes; so one that comes back to use is either kept or compiled anew, never half there. It
is moved aside first and emptied then: no replica ever starts from a part of it.
"""

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ignite.layout import Layout
from ignite.locks import FolderLock, stamp
from ignite.ports.shelves import Kept, Removed, ShelfKind
from ignite.privileges import sync_folder
from ignite.shelving import FolderShelf, kept_at, names_in, stamp_of

logger = logging.getLogger(__name__)

_GONE = ".gone-"


class ArtifactShelf(FolderShelf):
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

    def _behind(self, after: str) -> Iterator[Kept]:
        last_tag = after.partition("/")[0]
        for tag in _names(self._root):
            if tag < last_tag:
                continue
            for digest in _names(self._root / tag):
                if f"{tag}/{digest}" > after:
                    yield from kept_at(self._root / tag / digest, f"{tag}/{digest}")

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


class WorkFolderShelf(FolderShelf):
    """Implements ports.shelves.Shelf on the work folders of compiles; keys are their names."""

    kind = ShelfKind.WORK_FOLDER

    def __init__(self, layout: Layout) -> None:
        self._root = layout.builds

    def _behind(self, after: str) -> Iterator[Kept]:
        for name in _names(self._root):
            if name > after:
                yield from kept_at(self._root / name, name)

    def _remove(self, kept: Kept) -> Removed:
        path = self._root / kept.key
        return _empty(path) if _stamp(path) == kept.stamp else Removed()


def _names(folder: Path) -> list[str]:
    """Return the names in a folder but for those of things that are on their way out."""
    return [name for name in names_in(folder) if not name.startswith(".")]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return stamp_of(path.stat())
    except FileNotFoundError:
        return None


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
