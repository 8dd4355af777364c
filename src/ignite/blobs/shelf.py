"""The blobs as a shelf: what lies there, and its removal.

Content has one name, so a blob that nobody needs may be wanted again at the very moment it is being
removed. `FileBlobStore` gives a blob that is there already a new time, holding the lock shared;
here the time is compared and the file unlinked, holding it alone. So a put comes before, and the
blob stays, or behind, and writes it anew.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from ignite.blobs.files import DRAFT
from ignite.locks import FolderLock
from ignite.ports.shelves import Kept, Removed, ShelfKind
from ignite.shelving import FolderShelf, kept_at, names_in, stamp_of

# A blob has 64 MiB at most: no writer takes this long.
_STALE_SECS = 24 * 3600


class BlobShelf(FolderShelf):
    """Implements ports.shelves.Shelf on the folder of a `FileBlobStore`; keys are `org/digest`."""

    kind = ShelfKind.BLOB

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FolderLock(root)

    def _behind(self, after: str) -> Iterator[Kept]:
        last_organization, _, last_digest = after.partition("/")
        for organization in names_in(self._root):
            if organization < last_organization:
                continue
            behind = last_digest if organization == last_organization else ""
            for start in names_in(self._root / organization):
                if start.startswith(DRAFT) or start < behind[: len(start)]:
                    continue
                for rest in names_in(self._root / organization / start):
                    if start + rest > behind:
                        path = self._root / organization / start / rest
                        yield from kept_at(path, f"{organization}/{start}{rest}")

    def _remove(self, kept: Kept) -> Removed:
        organization, _, digest = kept.key.partition("/")
        folder = self._root / organization / digest[:2]
        path = folder / digest[2:]
        try:
            with self._lock.alone():
                about = path.stat()
                if stamp_of(about) != kept.stamp:
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
