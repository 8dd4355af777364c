"""The tree a compile leaves behind, checked before anything of ours looks into it.

It was written by code we do not know. It may hold files and folders, and links that stay inside;
nothing else, nothing beyond its bounds, no bit that gives rights. The compile is dead when this
runs, so the tree stands still.
"""

import os
import posixpath
import stat
from dataclasses import dataclass

from ignite.spawner.host import Owner

MAX_ENTRIES = 200_000
# Walking goes by recursion, here and in every tool that will see the tree.
MAX_DEPTH = 100

_LEAST_FILE_BYTES = 4096
_DESCRIPTOR = "/proc/self/fd/{}"


class OutputRefused(Exception):
    """The tree cannot be taken; the text is for the app's owner."""


class TreeTooDeep(Exception):
    """There are folders more than `MAX_DEPTH` deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputBounds:
    """How much a tree may hold."""

    most_bytes: int
    most_entries: int = MAX_ENTRIES


def take_over(root: int, bounds: OutputBounds, owner: Owner | None) -> int:
    """Check the tree below descriptor `root`, hand it to `owner`, and return its size in bytes.

    Files become 0644 or 0755, folders 0755. Raises OutputRefused.
    """
    size = entries = 0
    for path, folders, files, descriptor in os.fwalk(
        ".", dir_fd=root, follow_symlinks=False, onerror=_fail
    ):
        if path.count("/") > MAX_DEPTH:
            raise OutputRefused(f"the artifact has folders more than {MAX_DEPTH} deep")
        for name in (*folders, *files):
            entries += 1
            about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            shown = posixpath.normpath(posixpath.join(path, name))
            if stat.S_ISREG(about.st_mode):
                size += about.st_size
            _check(about, name, shown, descriptor)
            if entries > bounds.most_entries:
                raise OutputRefused(f"the artifact has more than {bounds.most_entries} files")
            if size > bounds.most_bytes:
                raise OutputRefused(f"the artifact has more than {bounds.most_bytes} bytes")
            _settle(name, about, descriptor, owner)
    _settle_folder(root, owner)
    return size


def size_of(root: int, *, most_bytes: int) -> int:
    """Return how many bytes of disk the tree below `root` takes; stops counting beyond the bound.

    The tree may change meanwhile: what has gone counts nothing. Raises TreeTooDeep.
    """
    size = 0
    for path, folders, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        if path.count("/") > MAX_DEPTH:
            raise TreeTooDeep
        for name in (*folders, *files):
            try:
                about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                continue
            # Empty files take room as well, and a disk can run out of names.
            size += max(about.st_blocks * 512, _LEAST_FILE_BYTES)
        if size > most_bytes:
            break
    return size


def _check(about: os.stat_result, name: str, shown: str, descriptor: int) -> None:
    kind = stat.S_IFMT(about.st_mode)
    if kind == stat.S_IFLNK:
        target = os.readlink(name, dir_fd=descriptor)
        if target.startswith("/"):
            raise OutputRefused(f"{shown[:200]!r} is a link out of the artifact")
        # Lexical: a folder on the way may itself be a link, but that one stays inside too.
        if _escapes(shown, target):
            raise OutputRefused(f"{shown[:200]!r} is a link out of the artifact")
    elif kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise OutputRefused(f"{shown[:200]!r} is neither a file nor a folder")


def _escapes(shown: str, target: str) -> bool:
    """Tell whether a relative link could lead above the root, links on its way included.

    A link inside that points at a deeper or higher folder moves `..` elsewhere, so that `..` is
    only allowed at the start of a target, where it walks real folders.
    """
    parts = target.split("/")
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return ups > shown.count("/") or ".." in parts[ups:]


def _settle(name: str, about: os.stat_result, descriptor: int, owner: Owner | None) -> None:
    if owner is not None:
        os.chown(name, owner.uid, owner.gid, dir_fd=descriptor, follow_symlinks=False)
    if stat.S_ISLNK(about.st_mode):
        return
    is_runnable = stat.S_ISDIR(about.st_mode) or about.st_mode & 0o111
    os.chmod(name, 0o755 if is_runnable else 0o644, dir_fd=descriptor)


def _settle_folder(root: int, owner: Owner | None) -> None:
    path = _DESCRIPTOR.format(root)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    os.chmod(path, 0o755)  # noqa: S103 - replicas of any uid read it


def _fail(error: OSError) -> None:
    raise OutputRefused("the artifact cannot be read") from error
