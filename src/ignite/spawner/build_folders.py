"""Where compiles work: folders that only root can rename, and a cache kept for each organisation.

A cache is written by every compile of one organisation, so these share a uid: the owner of the
cache folder. It is what remembers which one that is. When it was used last says a file beside it,
since the time of the cache itself is in the hands of the compiles.
"""

import os
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ignite.layout import Layout
from ignite.sandbox.uids import UidPool
from ignite.spawner.outputs import TreeTooDeep, size_of
from ignite.spawner.removal import remove_tree

# A cache beyond the first is emptied once nobody uses it; a compile that takes it beyond the second
# is ended.
KEPT_CACHE_BYTES = 2 * 1024**3
MOST_CACHE_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolders:
    """Of one compile: `work` and `output` are its own, `cache` its organisation's."""

    root: Path
    work: Path
    output: Path
    cache: Path
    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """How many caches were removed, and the disk they took."""

    count: int = 0
    size_bytes: int = 0


class BuildFolders:
    """Makes and removes them, from any thread."""

    def __init__(
        self,
        layout: Layout,
        uids: UidPool,
        *,
        is_root: bool,
        kept_cache_bytes: int = KEPT_CACHE_BYTES,
    ) -> None:
        self._builds = layout.replicas / ".builds"
        self._caches = layout.replicas / ".caches"
        self._uses = layout.replicas / ".cache-uses"
        self._uids = uids
        self._is_root = is_root
        self._kept_cache_bytes = kept_cache_bytes
        self._lock = threading.Lock()
        self._users: Counter[Path] = Counter()

    def open(self) -> None:
        """Remove what an earlier spawner left; learn the uids of the caches there are."""
        remove_tree(self._builds)
        for folder in (self._builds, self._caches, self._uses):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for cache in self._caches.iterdir():
            self._uids.reserve(cache.stat().st_uid)
            (self._uses / cache.name).touch(mode=0o600, exist_ok=True)
        for use in self._uses.iterdir():
            if not (self._caches / use.name).is_dir():
                use.unlink()

    def make(self, build_id: str, organization_id: str) -> WorkFolders:
        """Make the folders of one compile. Raises FileExistsError for an id under way."""
        root = self._builds / build_id
        root.mkdir(mode=0o700)
        with self._lock:
            cache, uid = self._cache(organization_id)
            self._users[cache] += 1
            (self._uses / cache.name).touch(mode=0o600)
        folders = WorkFolders(
            root=root, work=root / "work", output=root / "output", cache=cache, uid=uid
        )
        for folder in (folders.work, folders.output):
            folder.mkdir(mode=0o700)
            if self._is_root:
                os.chown(folder, uid, uid)
        return folders

    def remove(self, folders: WorkFolders) -> None:
        """Remove what a compile worked in, and a cache that has become too large."""
        remove_tree(folders.root)
        with self._lock:
            self._users[folders.cache] -= 1
            if self._users[folders.cache] > 0:
                return
            del self._users[folders.cache]
            most = self._kept_cache_bytes
            if _is_above(folders.cache, most):
                for entry in folders.cache.iterdir():
                    if entry.is_dir() and not entry.is_symlink():
                        remove_tree(entry)
                    else:
                        entry.unlink(missing_ok=True)

    def trim(self, *, most_bytes: int, most_age_secs: float) -> Trimmed:
        """Remove caches nobody uses: those unused for so long, then the ones unused for longest.

        In the end all caches together are within the bound, but for what is in use.
        """
        oldest = time.time() - most_age_secs
        used = sorted((use.stat().st_mtime, use.name) for use in self._uses.iterdir())
        sizes = {name: _size(self._caches / name) for _, name in used}
        total = sum(sizes.values())
        count = size_bytes = 0
        for used_at, name in used:
            if used_at >= oldest and total <= most_bytes:
                break
            if self._drop(name, used_at):
                total -= sizes[name]
                count, size_bytes = count + 1, size_bytes + sizes[name]
        return Trimmed(count=count, size_bytes=size_bytes)

    def _drop(self, name: str, used_at: float) -> bool:
        """Remove a cache, unless it has come to use since."""
        cache, use = self._caches / name, self._uses / name
        gone = self._builds / f".cache-{secrets.token_hex(8)}"
        with self._lock:
            if self._users[cache] or use.stat().st_mtime != used_at:
                return False
            uid = cache.stat().st_uid if cache.is_dir() else None
            if uid is not None:
                # Aside at once, empty later: whoever comes now makes a cache of his own.
                cache.rename(gone)
            use.unlink()
        remove_tree(gone)
        if uid is not None and self._is_root and not gone.exists():
            with self._lock:
                self._uids.give_back(uid)
        return True

    def _cache(self, organization_id: str) -> tuple[Path, int]:
        cache = self._caches / organization_id
        if not self._is_root:
            cache.mkdir(mode=0o700, exist_ok=True)
            return cache, os.geteuid()
        if cache.is_dir():
            return cache, cache.stat().st_uid
        uid = self._uids.take()
        # Owned before it has its name: a crash between the two must not leave root's.
        fresh = self._caches / f".{organization_id}"
        fresh.mkdir(mode=0o700, exist_ok=True)
        os.chown(fresh, uid, uid)
        fresh.rename(cache)
        return cache, uid


def disk_use(folder: Path, *, most_bytes: int) -> int:
    """Return the bytes of disk that `folder` takes; stops counting beyond the bound.

    Raises TreeTooDeep.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return size_of(descriptor, most_bytes=most_bytes)
    finally:
        os.close(descriptor)


def _size(cache: Path) -> int:
    """Return the disk a cache takes; one that cannot be measured counts as the largest there is."""
    try:
        return disk_use(cache, most_bytes=MOST_CACHE_BYTES)
    except FileNotFoundError:
        return 0
    except (OSError, TreeTooDeep):
        return MOST_CACHE_BYTES


def _is_above(folder: Path, most_bytes: int) -> bool:
    try:
        return disk_use(folder, most_bytes=most_bytes) > most_bytes
    except TreeTooDeep:
        return True
