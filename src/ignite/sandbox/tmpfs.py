"""A small file system in memory for what sandboxes may write outside of themselves.

A folder that a tenant writes on the machine's own disk is a way to fill that disk. In memory every
byte and every name counts against the control group of who made it, and the whole has a bound.
"""

import ctypes
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH = 2


def is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted exactly at `path`."""
    wanted = str(path.absolute())
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(_unescaped(line.split()[4]) == wanted for line in lines)


def mount_tmpfs(path: Path, *, size_bytes: int) -> None:
    """Mount an empty one at `path`, where no program can be run from; raises OSError."""
    # Names are bounded by the control groups of their makers; a common bound on them would let one
    # tenant take all.
    options = f"mode=0700,size={size_bytes},nr_inodes=0"
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    done = _LIBC.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode())
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def unmount(path: Path) -> None:
    """Take away what is mounted at `path`; raises OSError."""
    if _LIBC.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _unescaped(field: str) -> str:
    return field.encode().decode("unicode_escape") if "\\" in field else field
