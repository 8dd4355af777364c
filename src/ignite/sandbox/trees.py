"""Mounts that are nowhere yet: a folder of ours as a descriptor that somebody else can mount.

The one who mounts it lives in another mount namespace, where a path or a plain descriptor of ours
cannot be bound. What it may do with it is decided here, before it is handed over.
"""

import ctypes
import os
from pathlib import Path

# The numbers are the same on every machine that this runs on.
_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("to_set", "to_clear", "propagation", "user_namespace")
    )


def detached_tree(source: Path | int, *, is_writable: bool) -> int:
    """Return a detached mount of one folder or file; raises OSError (also on an old kernel)."""
    folder, path = (source, b"") if isinstance(source, int) else (_AT_FDCWD, os.fsencode(source))
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_EMPTY_PATH if isinstance(source, int) else 0)
    tree = _call(_OPEN_TREE, folder, ctypes.c_char_p(path), ctypes.c_uint(flags))
    try:
        wanted = _NO_SUID | _NO_DEVICES | (0 if is_writable else _READ_ONLY)
        attributes = _Attributes(to_set=wanted)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        nothing, empty = ctypes.c_char_p(b""), ctypes.c_uint(_AT_EMPTY_PATH)
        _call(_MOUNT_SETATTR, tree, nothing, empty, ctypes.byref(attributes), size)
    except OSError:
        os.close(tree)
        raise
    return tree


def _call(number: int, *arguments: object) -> int:
    done = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if done < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return done
