"""One started process: how it is forked, its pidfd, its pipe and its end.

Waited for by pidfd on the event loop: no helper threads, which matters because a parent-death
signal follows the thread that forked, and because a process that forks should have few of them.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHUNK = 64 * 1024


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start and how to tell that it serves.

    `probe` is called again and again until it returns True; an OSError (a TimeoutError is one)
    counts as not yet. `prepare` runs before every start. `uid` and `gid` of None keep ours. `env`
    is the whole environment.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    probe: Callable[[], Awaitable[bool]]
    log_path: Path
    prepare: Callable[[], Awaitable[None]] = _nothing
    cwd: Path = Path("/")
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    pass_fds: tuple[int, ...] = ()
    umask: int = 0o077
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_secs: float = 10.0
    start_timeout_secs: float = 60.0
    log_rotate_bytes: int = 10 * 1024 * 1024
    log_rotate_count: int = 3


class Process:
    """One started process: its pidfd, its pipe, its end. Belongs to the running loop."""

    def __init__(self, spec: ChildSpec) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children are started by the main thread: they die with the thread")
        self._loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            self._popen = _spawn(spec, write_fd)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._on_end)
        os.set_blocking(read_fd, False)
        self._pipe = read_fd

    @property
    def has_ended(self) -> bool:
        """Tell whether the process is over."""
        return self._ended.done()

    @property
    def code(self) -> int:
        """Return the exit code; negative for a signal, 0 also while it runs."""
        return self._popen.returncode or 0

    @property
    def outcome(self) -> str:
        """Say how it ended."""
        code = self._popen.returncode
        if code is None:
            return "runs"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    async def ended(self) -> None:
        """Wait for the end."""
        await asyncio.shield(self._ended)

    async def ended_within(self, secs: float) -> bool:
        """Wait for the end, at most `secs`."""
        await asyncio.wait({self._ended}, timeout=secs)
        return self.has_ended

    async def read(self) -> bytes:
        """Return the next bytes of stdout and stderr; none at the end."""
        while True:
            try:
                return os.read(self._pipe, _CHUNK)
            except BlockingIOError:
                await self._readable()

    async def stop(self, number: signal.Signals, grace_secs: float) -> None:
        """Signal the process, wait for the grace, kill what is left of its group."""
        if not self.has_ended:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
                await self.ended_within(grace_secs)
            finally:
                if not self.has_ended:
                    logger.warning("child did not stop in time", extra={"pid": self.pid})
                    self._kill_group()
        await self.ended()

    def close_pipe(self) -> None:
        """Close our end of the pipe."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # Not reaped yet, so the group's number cannot have been given to anybody else.
        self._kill_group()
        os.close(self._pidfd)
        self._popen.wait()
        if not self._ended.done():
            self._ended.set_result(None)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _readable(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._loop.add_reader(self._pipe, wake)
        try:
            await waiter
        finally:
            self._loop.remove_reader(self._pipe)


def _spawn(spec: ChildSpec, output_fd: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        # After the change of user, which clears the signal.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        spec.argv,
        env=dict(spec.env),
        cwd=spec.cwd,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        user=spec.uid,
        group=spec.gid,
        extra_groups=spec.groups if spec.gid is not None else None,
        umask=spec.umask,
        pass_fds=spec.pass_fds,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


async def run_once(spec: ChildSpec, *, timeout_secs: float) -> tuple[int, str]:
    """Run a command to its end; return its exit code and the last 64 KiB it wrote.

    `probe` and the log of `spec` are not used. Raises TimeoutError; the process is gone then.
    """
    process = Process(spec)
    output = b""
    try:
        async with asyncio.timeout(timeout_secs):
            while data := await process.read():
                output = (output + data)[-_CHUNK:]
            await process.ended()
    finally:
        await process.stop(signal.SIGKILL, 1.0)
        process.close_pipe()
    return process.code, output.decode("utf-8", "replace")
