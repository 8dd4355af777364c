"""Sandboxes that wait for an app: one pool a Python version, filled when nothing else is to do.

An entry holds no code and no secret. It is taken once, by one app, and never comes back. How large
a pool is to be is remembered over a restart.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ignite.domain.errors import FailedPrecondition, InvalidArgument
from ignite.domain.versions import Language, Runtime
from ignite.domain.workloads import WarmPool
from ignite.sandbox.forked import ForkFailed
from ignite.sandbox.interpreters import Interpreter
from ignite.sandbox.uids import UidsExhausted
from ignite.settings import RuntimeSettings
from ignite.spawner.forks import ForkServers
from ignite.spawner.host import Host
from ignite.spawner.starts import SANDBOX_SECS, Place, Starts

logger = logging.getLogger(__name__)

MOST_ENTRIES = 100
# So long filling waits for starts under way to finish, and for what failed to work again.
LONGEST_YIELD_SECS = 1.0
RETRY_SECS = 10.0


@dataclass(slots=True, kw_only=True)
class _Pool:
    interpreter: Interpreter
    size: int
    entries: deque[Place] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def state(self) -> WarmPool:
        runtime = Runtime(language=Language.PYTHON, version=self.interpreter.minor, target="")
        return WarmPool(runtime=runtime, size=self.size, ready=len(self.entries))


class WarmPools:
    """All pools of this machine. Works between `open` and `close`."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        host: Host,
        starts: Starts,
        forks: ForkServers,
        folder: Path,
    ) -> None:
        self._settings = settings
        self._host = host
        self._starts = starts
        self._forks = forks
        self._file = folder / ".pools.json"
        self._pools: dict[str, _Pool] = {}
        self._fillers: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._starting = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._numbers = count(1)

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to fill."""
        self._tasks = tasks
        if not self._forks.is_possible:
            return
        for minor, size in self._sizes().items():
            if (interpreter := self._host.interpreters.get(minor)) is not None:
                self._resize(interpreter, size)

    async def close(self) -> None:
        """Stop filling and end all that waits."""
        self._tasks = None
        fillers = list(self._fillers.values())
        for filler in fillers:
            filler.cancel()
        if fillers:
            await asyncio.wait(fillers)
        for pool in self._pools.values():
            pool.size = 0
            await self._trim(pool)

    def take(self, interpreter: Interpreter) -> Place | None:
        """Return a place with a sandbox that waits, None where there is none."""
        pool = self._pools.get(interpreter.minor)
        if pool is None or not pool.entries:
            return None
        pool.changed.set()
        # One that has died meanwhile costs a fork, as without a pool.
        return pool.entries.popleft()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Hold filling back while a replica starts."""
        self._starting += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            self._starting -= 1
            if not self._starting:
                self._is_quiet.set()

    def list(self) -> tuple[WarmPool, ...]:
        """Return every pool that has a size."""
        return tuple(pool.state() for pool in self._pools.values() if pool.size)

    async def set_size(self, runtime: Runtime, size: int) -> WarmPool:
        """Change a pool; 0 removes it. Raises FailedPrecondition where none can be."""
        if not 0 <= size <= MOST_ENTRIES:
            raise InvalidArgument(f"must be 0 to {MOST_ENTRIES}, not {size}", field="size")
        interpreter = self._host.interpreter(runtime)
        if self._tasks is None or not self._forks.is_possible:
            raise FailedPrecondition("this machine has no fork server", reason="NoForkServer")
        pool = self._resize(interpreter, size)
        sizes = {minor: pool.size for minor, pool in self._pools.items()}
        await asyncio.to_thread(_write, self._file, sizes)
        return pool.state()

    def _sizes(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(self._file.read_text())
            return {str(m): min(MOST_ENTRIES, max(0, int(n))) for m, n in kept.items()}
        usual = Runtime(language=Language.PYTHON, version="", target="")
        with contextlib.suppress(FailedPrecondition):
            return {self._host.interpreter(usual).minor: self._settings.warm_pool_size}
        return {}

    def _resize(self, interpreter: Interpreter, size: int) -> _Pool:
        assert self._tasks is not None
        minor = interpreter.minor
        pool = self._pools.get(minor)
        if pool is None:
            pool = self._pools[minor] = _Pool(interpreter=interpreter, size=size)
            filler = self._tasks.create_task(self._fill(pool), name=f"pool {minor}")
            self._fillers[minor] = filler
        pool.size = size
        pool.changed.set()
        return pool

    async def _fill(self, pool: _Pool) -> None:
        """Keep a pool at its size, one entry at a time, behind all real starts."""
        while True:
            pool.changed.clear()
            await self._trim(pool)
            if len(pool.entries) >= pool.size:
                await pool.changed.wait()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_YIELD_SECS):
                    await self._is_quiet.wait()
            try:
                place = await self._make(pool.interpreter)
            except Exception:  # a pool that stays empty costs time alone
                logger.exception("pool cannot be filled")
                place = None
            if place is None:
                await _wait(pool.changed, RETRY_SECS)
            else:
                pool.entries.append(place)

    async def _make(self, interpreter: Interpreter) -> Place | None:
        try:
            place = await self._starts.place(f".pool-{next(self._numbers)}")
        except UidsExhausted as error:
            logger.warning("pool cannot be filled", extra={"why": str(error)})
            return None
        is_made = False
        try:
            if self._forks.can_fork(interpreter):
                place.forked = await self._starts.fork(interpreter, place)
            if place.forked is not None:
                await place.forked.prepared(SANDBOX_SECS)
                is_made = True
        except ForkFailed as error:
            self._starts.note(error, "pool")
        finally:
            if not is_made:
                await self._starts.leave(place)
        return place if is_made else None

    async def _trim(self, pool: _Pool) -> None:
        while len(pool.entries) > pool.size:
            await self._starts.leave(pool.entries.pop())


async def _wait(event: asyncio.Event, within_secs: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_secs):
            await event.wait()


def _write(path: Path, sizes: dict[str, int]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(sizes))
    fresh.replace(path)
