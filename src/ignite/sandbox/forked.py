"""A sandbox that a fork server made, in two steps: everything but the app, then the app.

Between the two it has no code and no secret of anybody, so it can be made before it is known for
whom. It takes one app, once.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from asyncio import FIRST_COMPLETED

from ignite.sandbox.bubblewrap import READY_VARIABLE, Mount, SandboxSpec, environment
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.launcher import Identity, in_memory, started_ticks, terminate_command
from ignite.sandbox.trees import detached_tree

_PREPARED = "prepared"
_STARTED = "started"


class ForkFailed(Exception):
    """No sandbox was made, and no code of an app has run; the text says why."""


class Forked:
    """One sandbox by a fork server: `Running` once `specialise` has returned."""

    def __init__(
        self,
        *,
        pid: int,
        handle: int,
        control: socket.socket,
        status: int,
        stdout: int,
        stderr: int,
        group: ControlGroup | None,
    ) -> None:
        self.identity = Identity(pid=pid, started_ticks=started_ticks(pid) or 0)
        self.stdout = stdout
        self.stderr = stderr
        self._is_closed = False
        self._handle = handle
        self._control = control
        self._status = status
        self._group = group
        self._rest = b""
        self._failure = ""
        self._code = -signal.SIGKILL
        self._loop = asyncio.get_running_loop()
        self._steps = {step: self._loop.create_future() for step in (_PREPARED, _STARTED)}
        self._ended = self._loop.create_future()
        os.set_blocking(status, False)
        self._loop.add_reader(status, self._read_status)

    async def prepared(self, within_secs: float) -> None:
        """Return when everything but the app is there; raises ForkFailed."""
        await self._reach(_PREPARED, within_secs)

    async def specialise(self, spec: SandboxSpec, within_secs: float) -> None:
        """Put `spec` in and let its command begin; raises ForkFailed where it did not.

        Of the spec, what the tree already holds and the uid must be those it was made with.
        """
        mounts = [
            *(mount for mount in spec.mounts if isinstance(mount.source, int)),
            Mount(source=spec.passwd, target="/etc/passwd"),
        ]
        env = environment(spec)
        env.pop(READY_VARIABLE, None)
        given: list[int] = []
        try:
            for mount in mounts:
                tree = detached_tree(mount.source, is_writable=mount.is_writable)
                given.append(tree)
            given.append(in_memory("environment", json.dumps({"env": env}).encode()))
            told = {"targets": [mount.target for mount in mounts], "cwd": spec.cwd}
            notify = [] if spec.notify is None else [spec.notify]
            socket.send_fds(self._control, [json.dumps(told).encode()], [*given, *notify])
        except OSError as error:
            raise ForkFailed(str(error)) from error
        finally:
            for descriptor in given:
                os.close(descriptor)
            self._control.close()
        await self._reach(_STARTED, within_secs)

    async def wait(self) -> int:
        """Return the command's exit code, negative for the signal that ended it."""
        # The handle tells it after all that was inside has gone, which the status cannot.
        gone = asyncio.Event()
        self._loop.add_reader(self._handle, gone.set)
        try:
            await gone.wait()
        finally:
            self._loop.remove_reader(self._handle)
        await asyncio.wait((self._ended,))
        return self._code

    def terminate(self) -> bool:
        """Ask the command itself to end (SIGTERM); False if it cannot be found."""
        return not self._ended.done() and terminate_command(self.identity.pid)

    def kill(self) -> None:
        """End everything inside, at once. Blocks until the group is empty, where there is one."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def close(self) -> None:
        """Give the descriptors back; the process must have ended."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._status)
        self._control.close()
        for descriptor in (self._status, self._handle, self.stdout, self.stderr):
            os.close(descriptor)

    async def _reach(self, step: str, within_secs: float) -> None:
        reached = self._steps[step]
        await asyncio.wait((reached, self._ended), timeout=within_secs, return_when=FIRST_COMPLETED)
        if not reached.done():
            why = "it ended before it was made" if self._ended.done() else "it takes too long"
            raise ForkFailed(self._failure or why)

    def _read_status(self) -> None:
        """Take in what the first process says; its end is the end of everything inside."""
        try:
            data = os.read(self._status, 4096)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word in self._steps:
                self._steps[word].set_result(None)
            elif word == "failed":
                self._failure = rest
            elif word == "exit":
                self._code = int(rest)
        if not data:
            self._loop.remove_reader(self._status)
            self._ended.set_result(None)
