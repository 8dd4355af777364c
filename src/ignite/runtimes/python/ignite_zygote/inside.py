"""From a fresh fork to a process that has no power left: the sandbox, as bubblewrap makes it.

The first process of the new pid namespace builds the rest and forks the replica, which gives up
first what it may, then the system call filter closes behind it, and it waits. The first one waits
as well, still with every capability but without any code of a tenant, until it is told which app
this is for. It mounts that app, gives up everything itself, and lets the replica begin; from then
on it only reaps.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import ssl
import time

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

HOME = "/tmp/ignite"  # noqa: S108 - inside, where /tmp is its own
OPEN_FILES = 4096
FAILED = 125
MAX_GIVEN = 8
MAX_MESSAGE_BYTES = 4096
READY_VARIABLE = "IGNITE_READY_FD"

_COVERED = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_QUIET = kernel.MS_NOSUID | kernel.MS_NODEV


def become(request: dict[str, Any], given: list[int], program: bytes, alive: int) -> None:
    """Turn a fresh fork into the first process of a sandbox; returns in the replica alone."""
    status = given[0]
    try:
        _become(request, given, program, alive)
    except BaseException as error:  # noqa: BLE001 - nothing of ours may run on in here
        _say(status, f"failed {type(error).__name__}: {error}"[:500])
        os._exit(FAILED)


def _become(request: dict[str, Any], given: list[int], program: bytes, alive: int) -> None:
    status, control, stdout, stderr, *others = given
    _reset_signals()
    os.setsid()
    kernel.die_with_parent()
    _check_parent(alive)
    _enter_groups(others[: request["groups"]])
    _enter_namespaces(others[request["groups"] :], has_network=request["has_network"])
    _mount(request["tmp_bytes"], request["shm_bytes"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    replica = os.fork()
    if replica:
        _be_first(replica, status, control, ours, program, alive)
    _give_up(request["uid"])
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    _close_all_but(status, theirs.fileno())
    if program:
        kernel.filter_calls(program)
    _say(status, "prepared")
    _begin(status, theirs)


def _begin(status: int, theirs: socket.socket) -> None:
    """Wait for the app, without any power left; then be its process."""
    with theirs:
        message, (payload, *notify), _, _ = socket.recv_fds(theirs, MAX_MESSAGE_BYTES, 2)
    with os.fdopen(payload, "rb") as file:
        env = json.load(file)["env"]
    if notify:
        env[READY_VARIABLE] = str(notify[0])
    environ = os.environ  # noqa: TID251 - a process of its own, not the server's
    environ.clear()
    environ.update(env)
    # The C library has looked at TZ already, in the parent.
    time.tzset()
    os.chdir(json.loads(message)["cwd"])
    ssl.RAND_add(os.urandom(32), 32)
    _say(status, "started")
    os.close(status)


def _reset_signals() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _check_parent(alive: int) -> None:
    """End where the parent did before we asked to be told of it."""
    looking = select.poll()
    looking.register(alive, select.POLLIN)
    if looking.poll(0):
        os._exit(FAILED)


def _enter_groups(procs: list[int]) -> None:
    for file in procs:
        os.write(file, b"0")


def _enter_namespaces(networks: list[int], *, has_network: bool) -> None:
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
    if networks:
        kernel.enter(networks[0], kernel.CLONE_NEWNET)
    elif not has_network:
        flags |= kernel.CLONE_NEWNET
    kernel.unshare(flags)
    if not networks and not has_network:
        kernel.raise_loopback()


def _mount(tmp_bytes: int, shm_bytes: int) -> None:
    """Replace what may not be shared with others that came from the same tree."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    for place in ("/proc", "/dev/pts", "/dev/shm", "/tmp"):  # noqa: S108 - its own
        kernel.unmount(place)
    kernel.mount("proc", "/proc", "proc", _QUIET | kernel.MS_NOEXEC)
    for path in _COVERED:
        if os.path.exists(path):
            kernel.make_read_only(path)
    terminals = "newinstance,ptmxmode=0666,mode=620"
    kernel.mount("devpts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, terminals)
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", _QUIET, f"mode=1777,size={shm_bytes}")  # noqa: S108
    kernel.mount("tmpfs", "/tmp", "tmpfs", _QUIET, f"mode=1777,size={tmp_bytes}")  # noqa: S108
    os.mkdir(HOME)
    os.chmod(HOME, 0o777)  # noqa: S103 - of one replica alone


def _be_first(
    replica: int, status: int, control: int, ours: socket.socket, program: bytes, alive: int
) -> NoReturn:
    """Mount the app, give everything up, let the replica begin; then reap until it has ended."""
    try:
        message, given = _receive(control)
        os.chdir("/")
        kernel.drop_bounding_set()
        kernel.drop_capabilities()
        kernel.set_dumpable(False)
        kernel.die_with_parent()
        _check_parent(alive)
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        _close_all_but(status, ours.fileno(), *given)
        if program:
            kernel.filter_calls(program)
        socket.send_fds(ours, [message], given)
        ours.close()
        for descriptor in given:
            os.close(descriptor)
        while True:
            pid, ended = os.wait()
            if pid == replica:
                _say(status, f"exit {os.waitstatus_to_exitcode(ended)}")
                os._exit(0)
    except BaseException as error:  # noqa: BLE001 - nothing of ours may run on in here
        _say(status, f"failed {type(error).__name__}: {error}"[:500])
    finally:
        os._exit(FAILED)


def _receive(control: int) -> tuple[bytes, list[int]]:
    """Wait for which app this is; mount it. Ends where nobody will say."""
    with socket.socket(fileno=control) as channel:
        message, given, flags, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_GIVEN)
    if not message:
        os._exit(0)
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        raise OSError("the request was cut")
    targets = json.loads(message)["targets"]
    for tree, target in zip(given, targets):  # noqa: B905 - has no `strict` before 3.10
        kernel.attach(tree, target)
        os.close(tree)
    return message, given[len(targets) :]


def _give_up(uid: int) -> None:
    os.umask(0o007)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    # The bounding set needs a capability to be emptied, which the change of uid takes away.
    kernel.drop_bounding_set()
    os.setresuid(uid, uid, uid)
    kernel.drop_capabilities()
    kernel.die_with_parent()
    # A change of uid has closed /proc/self to us; another's sandbox cannot see it at all.
    kernel.set_dumpable(True)


def _close_all_but(*kept: int) -> None:
    """Close what came from the parent; the first three are the caller's."""
    below = 3
    for descriptor in [*sorted(kept), OPEN_FILES]:
        os.closerange(below, descriptor)
        below = descriptor + 1


def _say(status: int, text: str) -> None:
    os.write(status, f"{text}\n".encode())
