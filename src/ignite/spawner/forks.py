"""The fork servers of this machine: one a Python version, made when wanted, replaced by age.

Whatever stands against one (no root, an old kernel, a crash) only costs time: the caller then
starts the replica by bubblewrap. Hence one that failed is not tried again for a while.
"""

import asyncio
import logging
from itertools import count

from ignite.domain.errors import FailedPrecondition
from ignite.domain.versions import Language, Runtime
from ignite.sandbox.bubblewrap import HOME, Mount, SandboxSpec, TreeSpec
from ignite.sandbox.etc import write_passwd
from ignite.sandbox.forked import Forked, ForkFailed
from ignite.sandbox.forkserver import ForkServer, Seat, tree_of
from ignite.sandbox.interpreters import Interpreter
from ignite.sandbox.launcher import Launcher
from ignite.settings import RuntimeSettings
from ignite.spawner.host import RUNTIME_FOLDER, Host
from ignite.spawner.launch import APP_FOLDER, SOCKET_FOLDER

logger = logging.getLogger(__name__)

# Children of one server share the seed of hashes and the layout of memory.
MOST_FORKS = 1000
MOST_AGE_SECS = 3600.0
RETRY_SECS = 30.0

_COMMAND = ("-I", "-B", f"{RUNTIME_FOLDER}/zygote.py")


class ForkServers:
    """Forks sandboxes for whoever asks. Works between `open` and `close`."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        host: Host,
        launcher: Launcher,
        most_forks: int = MOST_FORKS,
    ) -> None:
        self._most_forks = most_forks
        self._settings = settings
        self._host = host
        self._launcher = launcher
        self._servers: dict[str, ForkServer] = {}
        self._since: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._watches: set[asyncio.Task[None]] = set()
        self._alive: set[ForkServer] = set()
        self._numbers = count(1)

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Begin; the usual version is warmed up at once."""
        self._tasks = tasks
        try:
            usual = self._host.interpreter(Runtime(language=Language.PYTHON, version="", target=""))
            if self.can_fork(usual):
                await self._server(usual)
        except (FailedPrecondition, ForkFailed):
            return

    async def close(self) -> None:
        """End all servers, and with them what they forked."""
        self._tasks = None
        watches = set(self._watches)
        for watch in watches:
            watch.cancel()
        # One waits on a process at a time; what a watch had begun is finished below.
        if watches:
            await asyncio.wait(watches)
        for server in list(self._alive):
            await server.kill()
        self._alive.clear()
        self._servers.clear()

    @property
    def is_possible(self) -> bool:
        """Tell whether this machine is set up for it."""
        return self._settings.fork_server and self._host.tools.is_root

    def can_fork(self, interpreter: Interpreter) -> bool:
        """Tell whether it is worth asking."""
        if not self.is_possible or self._tasks is None:
            return False
        failed_at = self._failed_at.get(interpreter.minor)
        return failed_at is None or self._now() - failed_at > RETRY_SECS

    async def fork(self, interpreter: Interpreter, seat: Seat) -> Forked:
        """Fork a sandbox for `interpreter`; it is not yet prepared. Raises ForkFailed."""
        for _ in range(2):
            server = await self._server(interpreter)
            try:
                return await server.fork(seat)
            except ForkFailed as error:
                failure = error
                # One that has just died, or hangs, says nothing of the next.
                if server.is_usable:
                    break
        self.note_failure(interpreter)
        raise failure

    def note_failure(self, interpreter: Interpreter) -> None:
        """Leave a version alone for a while."""
        self._failed_at[interpreter.minor] = self._now()

    async def _server(self, interpreter: Interpreter) -> ForkServer:
        minor = interpreter.minor
        async with self._locks.setdefault(minor, asyncio.Lock()):
            server = self._servers.get(minor)
            if server is not None and server.is_usable and not self._is_old(minor, server):
                return server
            fresh = await self._start(interpreter)
            if server is not None:
                server.retire()
            self._servers[minor] = fresh
            self._since[minor] = self._now()
            return fresh

    async def _start(self, interpreter: Interpreter) -> ForkServer:
        if self._tasks is None:
            raise ForkFailed("the spawner is stopping")
        number = next(self._numbers)
        try:
            # No replica's id begins like that.
            group = await asyncio.to_thread(self._host.groups.create, f".fork-server-{number}")
            try:
                server = await ForkServer.start(self._tree(interpreter), self._launcher, group)
            except ForkFailed:
                await asyncio.to_thread(group.remove)
                raise
        except (ForkFailed, OSError) as error:
            self.note_failure(interpreter)
            logger.warning(
                "fork server does not start",
                extra={"python": interpreter.version, "why": str(error)},
            )
            raise ForkFailed(str(error)) from error
        self._alive.add(server)
        watch = self._tasks.create_task(self._watch(server, interpreter))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        logger.info("fork server started", extra={"python": interpreter.version})
        return server

    async def _watch(self, server: ForkServer, interpreter: Interpreter) -> None:
        """Clear up behind a server that has ended, by itself or because it was retired."""
        code = await server.ended()
        if server.is_usable:
            logger.error(
                "fork server ended",
                extra={
                    "python": interpreter.version,
                    "exit_code": code,
                    "why": server.last_words(),
                },
            )
        try:
            await server.kill()
        except OSError:
            logger.exception("fork server not cleared up")
        self._alive.discard(server)

    def _tree(self, interpreter: Interpreter) -> TreeSpec:
        shared = self._host.etc.parent
        spec = SandboxSpec(
            command=(),
            uid=0,
            mounts=(
                *self._host.interpreter_mounts(interpreter),
                Mount(source=self._host.runtime_files, target=RUNTIME_FOLDER),
                Mount(source=-1, target=APP_FOLDER),
                Mount(source=-1, target=SOCKET_FOLDER),
            ),
            etc=self._host.etc,
            passwd=write_passwd(shared / "passwd", 0, home=HOME),
            env=interpreter.inner_env,
            has_network=self._host.egress.replicas == "host",
        )
        return tree_of(spec, (interpreter.inner_path, *_COMMAND))

    def _is_old(self, minor: str, server: ForkServer) -> bool:
        return server.forks >= self._most_forks or self._now() - self._since[minor] > MOST_AGE_SECS

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
