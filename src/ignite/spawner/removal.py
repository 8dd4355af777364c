"""Removes trees that a tenant's code made.

Such a tree may be thousands of folders deep. Whatever walks into it by recursion ends at Python's
bound, at the machine's bound on open files, or at the longest path; so nothing here goes deeper
than two: what lies below is first moved up. What made the tree must be dead.
"""

import contextlib
import errno
import os
from itertools import count
from pathlib import Path

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


def remove_tree(path: str | Path, *, dir_fd: int | None = None) -> None:
    """Remove a folder and all below it, following no link. What cannot be removed stays."""
    try:
        top = _open(path, dir_fd)
    except OSError:
        return
    try:
        _flatten(top)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path, dir_fd=dir_fd)


def _flatten(top: int) -> None:
    """Empty `top`: each folder in it gives its own folders to `top` and goes."""
    numbers = count()
    stuck: set[str] = set()
    while folders := _remove_files(top, without=stuck):
        for name in folders:
            try:
                inner = _open(name, top)
                try:
                    for child in _remove_files(inner):
                        _move_up(child, inner, top, numbers)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
            except OSError:
                stuck.add(name)


def _open(path: str | Path, dir_fd: int | None) -> int:
    """Open a folder whose maker may have taken every right to it away."""
    place = os.open(path, _PLACE, dir_fd=dir_fd)
    try:
        name = f"/proc/self/fd/{place}"
        os.chmod(name, 0o700)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _remove_files(folder: int, without: "set[str] | frozenset[str]" = frozenset()) -> list[str]:
    """Remove what is no folder; return the names of those that are."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        if is_folder:
            found.append(name)
        else:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
    return [name for name in found if name not in without]


def _move_up(name: str, folder: int, top: int, numbers: "count[int]") -> None:
    """Move a folder to a free name in `top`."""
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=folder)
        return
    while True:
        try:
            os.rename(name, f".{next(numbers)}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            # A name that the tree itself has: the next one may be free.
            if error.errno not in _TAKEN:
                raise
        else:
            return
