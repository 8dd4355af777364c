"""Starting a sandbox, and holding on to what was started.

All sandboxes are started by one thread that lives as long as the launcher: the kernel's
parent-death signal, which takes a sandbox down with us, follows the thread and not the process. No
code of ours runs between fork and exec (a shell joins the control groups), since a forked copy of a
process with gRPC's threads can do nothing safely.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ignite.sandbox import bubblewrap
from ignite.sandbox.bubblewrap import SandboxSpec, Tools, TreeSpec
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.seccomp import filter_program

# Joins the groups, allows no core file (the machine's core handler would get it), lets the group of
# a socket folder use the sockets made there, and becomes bubblewrap.
_JOIN = (
    'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; '
    'ulimit -c 0; ulimit -n 4096 2>/dev/null; umask 007; exec "$@"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process for ever: a pid alone may be another one's tomorrow."""

    pid: int
    started_ticks: int


def started_ticks(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is a name in brackets that may hold anything.
    return int(stat.rpartition(")")[2].split()[19])


def kill_if_same(identity: Identity) -> bool:
    """SIGKILL a process of an earlier run, if it still is that process."""
    try:
        handle = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if started_ticks(identity.pid) != identity.started_ticks:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def terminate_command(first: int) -> bool:
    """SIGTERM to the command of the sandbox whose first process is `first`; False if there is
    none."""
    try:
        text = Path(f"/proc/{first}/task/{first}/children").read_text()
    except OSError:
        return False
    # Orphans become children of the first process too; the command is the one with pid 2.
    for pid in text.split():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "2":
                    os.kill(int(pid), signal.SIGTERM)
                    return True
    return False


class Running(Protocol):
    """One running sandbox, however it was made. Owns its descriptors until `close`."""

    identity: Identity
    stdout: int
    stderr: int

    async def wait(self) -> int:
        """Return the command's exit code, negative for the signal that ended it."""
        ...

    def terminate(self) -> bool:
        """Ask the command itself to end (SIGTERM); False if it cannot be found."""
        ...

    def kill(self) -> None:
        """End everything inside, at once. Blocks until the group is empty, where there is one."""
        ...

    def close(self) -> None:
        """Give the descriptors back; the process must have ended."""
        ...


class Sandboxed:
    """A sandbox that bubblewrap made."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", info: int, group: ControlGroup | None
    ) -> None:
        self._process = process
        self._info = info
        self._group = group
        self._handle = os.pidfd_open(process.pid)
        self._init_pid: int | None = None
        self.identity = Identity(pid=process.pid, started_ticks=started_ticks(process.pid) or 0)
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout = process.stdout.fileno()
        self.stderr = process.stderr.fileno()

    async def wait(self) -> int:
        """Return the command's exit code, negative for the signal that ended it."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def note() -> None:
            loop.remove_reader(self._handle)
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(self._handle, note)
        try:
            await ended
        finally:
            loop.remove_reader(self._handle)
        code = self._process.wait()
        return 128 - code if code > 128 else code

    def terminate(self) -> bool:
        """Ask the command itself to end (SIGTERM); False if it cannot be found.

        It is the second process of its own pid namespace. The first one, bubblewrap's, ignores
        signals that it has no handler for, and nothing would arrive.
        """
        if self._init_pid is None:
            self._init_pid = self._read_init_pid()
        return self._init_pid is not None and terminate_command(self._init_pid)

    def kill(self) -> None:
        """End everything inside, at once. Blocks until the group is empty, where there is one."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def close(self) -> None:
        """Give the descriptors back; the process must have ended."""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._handle)
        if self._info >= 0:
            os.close(self._info)
            self._info = -1

    def _read_init_pid(self) -> int | None:
        if self._info < 0:
            return None
        try:
            text = os.read(self._info, 4096)
        except BlockingIOError:
            return None
        os.close(self._info)
        self._info = -1
        try:
            return int(json.loads(text)["child-pid"])
        except (ValueError, KeyError):
            return None


class Launcher:
    """Starts sandboxes. Closing it ends the thread and with it everything it started."""

    def __init__(self, tools: Tools, *, has_seccomp: bool = True) -> None:
        self._tools = tools
        self.filter = filter_program() if has_seccomp else b""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")

    async def start(self, spec: SandboxSpec, group: ControlGroup | None) -> Sandboxed:
        """Start `spec` inside `group`. Raises OSError when the machine refuses."""
        loop = asyncio.get_running_loop()
        # Shielded: a sandbox that was started must not be lost because its caller went away.
        starting = loop.run_in_executor(self._thread, self._start, spec, group)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            (await starting).kill()
            raise

    def close(self) -> None:
        """End the thread; the kernel ends what is left of its sandboxes."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _start(self, spec: SandboxSpec, group: ControlGroup | None) -> Sandboxed:
        with contextlib.ExitStack() as ours:
            inherited = [mount.source for mount in spec.mounts if isinstance(mount.source, int)]
            info, info_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ours.callback(os.close, info_end)
            arguments = ["--info-fd", str(info_end)]
            inherited.append(info_end)
            inherited += [] if spec.notify is None else [spec.notify]
            if isinstance(spec, TreeSpec):
                inherited.append(spec.commands)
            elif self.filter:
                program = in_memory("seccomp", self.filter)
                ours.callback(os.close, program)
                arguments += ["--seccomp", str(program)]
                inherited.append(program)
            arguments += bubblewrap.arguments(spec, self._tools)
            text = "".join(f"{argument}\0" for argument in arguments).encode()
            given = in_memory("arguments", text)
            ours.callback(os.close, given)
            inherited.append(given)
            folders = [str(folder) for folder in group.folders] if group else []
            try:
                process = subprocess.Popen(
                    [
                        *(self._tools.shell, "-c", _JOIN, "sh", *folders, "--"),
                        *bubblewrap.entrance(spec, self._tools),
                        *(self._tools.bwrap, "--args", str(given), "--"),
                        *bubblewrap.command(spec, self._tools),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=inherited,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            except BaseException:
                os.close(info)
                raise
        return Sandboxed(process, info, group)


def in_memory(name: str, content: bytes) -> int:
    """Return a descriptor to read `content` from; it lies in no file."""
    descriptor = os.memfd_create(name)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
