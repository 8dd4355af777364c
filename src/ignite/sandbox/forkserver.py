"""A fork server as the spawner sees it: a warm interpreter that forks sandboxes on request.

One of them serves one interpreter. It is root, in a tree that holds what its replicas will see, and
knows nothing of apps. What it forks dies with it, and it with the thread of the launcher. Children
of one server share the layout of their memory and the seed of hashes, so it is replaced now and
then; a retired one stays until the last of its children has ended.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from dataclasses import dataclass, replace

from ignite.sandbox.bubblewrap import SHARED_MEMORY_BYTES, SandboxSpec, TreeSpec
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.forked import Forked, ForkFailed
from ignite.sandbox.launcher import Launcher, Sandboxed

logger = logging.getLogger(__name__)

START_SECS = 10.0
FORK_SECS = 5.0
MAX_ANSWER_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a sandbox is made with before its app is known."""

    uid: int
    group: ControlGroup | None
    tmp_bytes: int
    has_network: bool
    # An open network namespace to be in, where it is neither a new one nor the machine's.
    network: int | None = None


class ForkServer:
    """One running fork server. `ForkServer.start` makes it."""

    def __init__(self, process: Sandboxed, commands: socket.socket, group: ControlGroup) -> None:
        self._process = process
        self._commands = commands
        self._group = group
        self._lock = asyncio.Lock()
        self._is_killed = False
        self.forks = 0
        self.is_usable = True

    @classmethod
    async def start(cls, tree: TreeSpec, launcher: Launcher, group: ControlGroup) -> "ForkServer":
        """Start one in `tree`, whose command is completed by the number of its socket.

        Raises ForkFailed.
        """
        commands, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        commands.setblocking(False)
        number = theirs.fileno()
        spec = replace(tree, command=(*tree.command, str(number)), commands=number)
        try:
            with theirs:
                process = await launcher.start(spec, group)
        except OSError as error:
            commands.close()
            raise ForkFailed(str(error)) from error
        made = cls(process, commands, group)
        try:
            await made._greet(launcher.filter)
        except (OSError, TimeoutError) as error:
            await made.kill()
            raise ForkFailed(str(error) or "the fork server does not start") from error
        except BaseException:
            await made.kill()
            raise
        return made

    async def fork(self, seat: Seat) -> Forked:
        """Fork a sandbox; it is not yet prepared. Raises ForkFailed."""
        async with self._lock:
            if not self.is_usable:
                raise ForkFailed("the fork server has ended")
            try:
                async with asyncio.timeout(FORK_SECS):
                    made = await self._fork(seat)
            except BaseException as error:
                # The next answer could be the one to this request.
                self.is_usable = False
                if isinstance(error, OSError | ValueError):
                    why = str(error) or "the fork server does not answer"
                    raise ForkFailed(why) from error
                raise
        self.forks += 1
        return made

    def retire(self) -> None:
        """Take no more requests; the process ends with the last of its children."""
        self.is_usable = False
        self._commands.close()

    async def ended(self) -> int:
        """Return its exit code once it is gone."""
        return await self._process.wait()

    def last_words(self) -> str:
        """Return what it wrote; it writes nothing but why it crashed."""
        with contextlib.suppress(OSError):
            os.set_blocking(self._process.stderr, False)
            return os.read(self._process.stderr, 2048).decode("utf-8", "replace")
        return ""

    async def kill(self) -> None:
        """End it, and with it all that it forked."""
        if self._is_killed:
            return
        self.retire()
        await asyncio.to_thread(self._process.kill)
        await self._process.wait()
        if self._is_killed:
            return
        # Set only now: a caller that was cancelled above leaves the rest to the next one.
        self._is_killed = True
        self._process.close()
        await asyncio.to_thread(self._group.remove)

    async def _greet(self, program: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._commands, b"=" + program)
        async with asyncio.timeout(START_SECS):
            if await loop.sock_recv(self._commands, MAX_ANSWER_BYTES) != b"ready":
                raise ForkFailed(self.last_words() or "the fork server did not start")

    async def _fork(self, seat: Seat) -> Forked:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            control, control_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(control.close)
            theirs.callback(control_end.close)
            ends = []
            read_ends = []
            for _ in range(3):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, read_end)
                theirs.callback(os.close, write_end)
                read_ends.append(read_end)
                ends.append(write_end)
            groups = seat.group.open_entrances() if seat.group else []
            for group in groups:
                theirs.callback(os.close, group)
            request = {
                "uid": seat.uid,
                "tmp_bytes": seat.tmp_bytes,
                "shm_bytes": SHARED_MEMORY_BYTES,
                "has_network": seat.has_network,
                "groups": len(groups),
            }
            given = [ends[0], control_end.fileno(), *ends[1:], *groups]
            given += [] if seat.network is None else [seat.network]
            pid, handle = await self._ask(json.dumps(request).encode(), given)
            ours.pop_all()
        return Forked(
            pid=pid,
            handle=handle,
            control=control,
            status=read_ends[0],
            stdout=read_ends[1],
            stderr=read_ends[2],
            group=seat.group,
        )

    async def _ask(self, request: bytes, given: list[int]) -> tuple[int, int]:
        """Return pid and process handle of a new child."""
        socket.send_fds(self._commands, [request], given)
        message, handles, _, _ = await _received(self._commands)
        word, _, rest = message.decode("utf-8", "replace").partition(" ")
        if word != "forked" or len(handles) != 1:
            raise OSError(rest or "the fork server has ended")
        return int(rest), handles[0]


async def _received(commands: socket.socket) -> tuple[bytes, list[int], int, object]:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(commands, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(commands)
    return socket.recv_fds(commands, MAX_ANSWER_BYTES, 1)


def tree_of(spec: SandboxSpec, command: tuple[str, ...]) -> TreeSpec:
    """Return the tree of a fork server for replicas like `spec`."""
    return TreeSpec(
        command=command,
        uid=0,
        mounts=tuple(mount for mount in spec.mounts if not isinstance(mount.source, int)),
        places=tuple(mount.target for mount in spec.mounts if isinstance(mount.source, int)),
        etc=spec.etc,
        passwd=spec.passwd,
        env=spec.env,
        has_network=spec.has_network,
    )
