"""The parent of replicas: one thread, no secret, no descriptor but its command socket.

It never reads what is meant for a replica. A request carries a few numbers and descriptors; the
environment of an app is read by the app's own process, from memory that only that process has.
Nothing of a tenant is imported here: packages are loaded behind the fork, inside the sandbox.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket

from ignite_shim.main import app_paths, main  # type: ignore[import-not-found]  # beside this package

from . import inside, kernel
from .preload import forget_hidden, preload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MAX_DESCRIPTORS = 16
MAX_REQUEST_BYTES = 4096
MAX_FILTER_BYTES = 128 * 1024


def serve(descriptor: int) -> Callable[[], NoReturn]:
    """Fork on request. Returns in replicas alone: what they have to call."""
    kernel.die_with_parent()
    commands = socket.socket(fileno=descriptor)
    commands.set_inheritable(False)
    program = commands.recv(MAX_FILTER_BYTES)[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _reap)
    loaded = preload()
    ours = os.pidfd_open(os.getpid())
    # Its other end tells a child, that began when we were already dead, that we are.
    alive, alive_end = os.pipe()
    gc.collect()
    gc.freeze()
    commands.send(b"ready")
    while True:
        message, given, flags, _ = socket.recv_fds(commands, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
        if not message:
            _outlive()
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            _answer(commands, "failed the request was cut")
        elif _fork(commands, ours):
            commands.close()
            os.close(ours)
            os.close(alive_end)
            inside.become(json.loads(message), given, program, alive)
            forget_hidden(loaded, app_paths(os.environ))  # noqa: TID251 - the replica's own
            return main  # type: ignore[no-any-return]
        for received in given:
            os.close(received)


def _fork(commands: socket.socket, ours: int) -> bool:
    """Fork into a new pid namespace; True in the child, which is its first process."""
    # Not reaped before there is a handle: until then the pid cannot become another's.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
            if not pid:
                return True
        finally:
            if os.getpid() != 1:
                kernel.enter(ours, kernel.CLONE_NEWPID)
        handle = os.pidfd_open(pid)
        _answer(commands, f"forked {pid}", handle)
        os.close(handle)
    except OSError as error:
        _answer(commands, f"failed {error}")
    finally:
        if os.getpid() != 1:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return False


def _answer(commands: socket.socket, text: str, *descriptors: int) -> None:
    socket.send_fds(commands, [text.encode()], list(descriptors))


def _reap(*_: Any) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _outlive() -> NoReturn:
    """Stay until the last child has ended: they die with us."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(0)
