"""The system call filter of every sandbox.

Default allow with a deny list like the one of container engines: a list of what is allowed breaks
with every new libc, and what a call could do is already bounded by the missing capabilities. The
list takes away what has been a way out without any capability (user namespaces, io_uring, keyrings,
userfaultfd, odd socket families) and what no function needs. bubblewrap loads the filter last, so
only `setpriv` and the command have to live under it.
"""

import errno
import functools
import os
import socket
from typing import Any

try:
    import pyseccomp
except (ImportError, OSError, RuntimeError) as error:  # it loads libseccomp when it is imported
    _missing = str(error) or type(error).__name__
else:
    _missing = ""

# Refused with EPERM, as a container engine does.
DENIED = (
    # mounts and roots
    *("mount", "umount", "umount2", "pivot_root", "chroot", "mount_setattr", "move_mount"),
    *("open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick"),
    # namespaces
    *("unshare", "setns"),
    # other processes' memory
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    # kernel surface that has been a way out
    *("bpf", "perf_event_open", "userfaultfd", "fanotify_init"),
    *(
        "keyctl",
        "add_key",
        "request_key",
        "open_by_handle_at",
        "name_to_handle_at",
        "lookup_dcookie",
    ),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # the machine itself
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "init_module"),
    *("finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms"),
    *("settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64"),
    *("adjtimex", "stime", "acct", "quotactl", "quotactl_fd", "syslog", "sysfs", "_sysctl"),
    *("iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "nfsservctl", "uselib", "ustat"),
    *("personality", "sethostname", "setdomainname", "vhangup", "bdflush"),
    *("mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"),
)

# Of the socket families only local, IPv4 and IPv6 are left.
_ALLOWED_FAMILIES = (socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
# The low byte of clone's flags is the exit signal, so that CLONE_NEWTIME cannot be asked for there.
_CLONE_FLAGS = _NEW_NAMESPACES[1:]
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C


class SeccompUnavailable(Exception):
    """The filter cannot be made on this machine; the text says what is missing."""


@functools.cache
def filter_program() -> bytes:
    """Return the filter as BPF for this machine; raises SeccompUnavailable."""
    if _missing:
        raise SeccompUnavailable(f"libseccomp cannot be loaded: {_missing}")
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        _add(made, refuse, name)
    for flag in _CLONE_FLAGS:
        _add(made, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # Its flags lie in memory, where a filter cannot look; libc falls back to clone.
    _add(made, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    unsupported = pyseccomp.ERRNO(errno.EAFNOSUPPORT)
    for call in ("socket", "socketpair"):
        beyond = max(_ALLOWED_FAMILIES) + 1
        _add(made, unsupported, call, pyseccomp.Arg(0, pyseccomp.GE, beyond))
        for family in set(range(beyond)) - {int(family) for family in _ALLOWED_FAMILIES}:
            _add(made, unsupported, call, pyseccomp.Arg(0, pyseccomp.EQ, family))
    for request in (_TIOCSTI, _TIOCLINUX):
        wanted = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request)
        _add(made, refuse, "ioctl", wanted)
    return _export(made)


def _add(made: Any, action: int, name: str, *arguments: Any) -> None:
    # A call that this architecture or this libseccomp does not know needs no rule.
    try:
        made.add_rule(action, name, *arguments)
    except (ValueError, OSError, RuntimeError):
        if name in ("clone", "clone3", "mount", "unshare", "ptrace"):
            raise SeccompUnavailable(f"libseccomp does not take a rule for {name}") from None


def _export(made: Any) -> bytes:
    with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()
