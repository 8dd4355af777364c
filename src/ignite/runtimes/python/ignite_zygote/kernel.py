"""The system calls that the standard library does not have. Each raises OSError by name."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18

_MNT_DETACH = 2
_MOVE_EMPTY_PATH = 4
_AT_FDCWD = -100
# Numbers of 2019 and later are the same on every machine that Linux runs Python on.
_MOVE_MOUNT = 429

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SIGKILL = 9
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_EINVAL = 22

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _check(done: int, what: str) -> None:
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int, what: str) -> None:
    none = ctypes.c_ulong(0)
    _check(_LIBC.prctl(option, ctypes.c_ulong(value), none, none, none), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _check(_LIBC.unshare(flags), "unshare")


def enter(descriptor: int, kind: int) -> None:
    """Enter a namespace."""
    _check(_LIBC.setns(descriptor, kind), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount."""
    done = _LIBC.mount(
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(done, f"mount {target}")


def unmount(target: str) -> None:
    """Take away what is mounted there, with everything below it."""
    _check(_LIBC.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def attach(tree: int, target: str) -> None:
    """Mount a detached tree that we were given."""
    none = ctypes.c_char_p(b"")
    flags = ctypes.c_uint(_MOVE_EMPTY_PATH)
    path = ctypes.c_char_p(target.encode())
    _check(_LIBC.syscall(_MOVE_MOUNT, tree, none, _AT_FDCWD, path, flags), f"attach {target}")


def make_read_only(path: str) -> None:
    """Cover a path by itself, read only."""
    mount(path, path, None, MS_BIND | MS_REC)
    mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def die_with_parent() -> None:
    """Be killed when the parent ends. A change of uid forgets it."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL, "parent death signal")


def set_dumpable(is_dumpable: bool) -> None:
    """Say whether processes of the same uid may look into this one."""
    _prctl(_PR_SET_DUMPABLE, int(is_dumpable), "dumpable")


def drop_bounding_set() -> None:
    """Let no program bring a capability. Needs one itself."""
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability, "bounding set")
        except OSError as error:
            if error.errno != _EINVAL:
                raise
            break


def drop_capabilities() -> None:
    """Give every capability up, for ever."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no new privileges")
    head = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_LIBC.capset(head, bytes(24)), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, "ambient set")


def filter_calls(program: bytes) -> None:
    """Load a system call filter."""
    steps = _Filter(len(program) // 8, program)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    none = ctypes.c_ulong(0)
    done = _LIBC.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(steps), none, none)
    _check(done, "seccomp")


def raise_loopback() -> None:
    """Switch on the loopback of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING))
