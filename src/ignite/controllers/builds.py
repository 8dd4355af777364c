"""Runs builds: claims them with a lease, compiles, stores the log, applies the result."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ulid import ULID

from ignite.db.database import (
    APPS_CHANNEL,
    BUILD_LINES_CHANNEL,
    BUILDS_CHANNEL,
    Database,
)
from ignite.db.leases import Lease
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.errors import PermanentError, TemporaryError, Unavailable
from ignite.ports.builder import Builder

logger = logging.getLogger(__name__)

_LEASE = timedelta(seconds=30)
_RENEW_SECS = 10.0
_FLUSH_SECS = 0.2
_POLL_SECS = 2.0
_MAX_ATTEMPTS = 5
_MAX_LINE = 8192


class LeaseLost(Exception):
    """Another worker has the build now: drop everything."""


class Builds:
    """The build controller. A Component."""

    name = "builds"

    def __init__(
        self, database: Database, builder: Builder, *, concurrency: int, log_bytes: int
    ) -> None:
        self._database = database
        self._builder = builder
        self._concurrency = concurrency
        self._log_bytes = log_bytes
        self._owner = f"builds-{ULID()}"
        self._hinted = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Claim and build, `concurrency` at once, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._database.listen((BUILDS_CHANNEL,), self._hear))
            for _ in range(self._concurrency):
                group.create_task(self._work())
            ready()

    def _hear(self, _channel: str, _payload: str) -> None:
        self._hinted.set()

    async def _work(self) -> None:
        while True:
            claimed = None
            try:
                async with self._database.transaction() as tx:
                    claimed = await tx.builds.claim(self._owner, str(ULID()), _LEASE)
            except Unavailable:
                await asyncio.sleep(_POLL_SECS)
                continue
            if claimed is None:
                await self._wait()
                continue
            build, lease = claimed
            try:
                await self._build(build, lease)
            except LeaseLost:
                logger.warning("lease lost", extra={"build": build.id})
            except Unavailable:
                # The lease runs out by itself and the build is taken up again.
                logger.warning("database away during a build", extra={"build": build.id})
            except Exception:  # a bug of ours must not stop the queue
                logger.exception("build crashed", extra={"build": build.id})
                await self._finish(
                    build, lease, BuildState.FAILED, "", "internal error", "Internal"
                )

    async def _wait(self) -> None:
        """Wait for a hint; the poll finds what a lost hint or a lost worker left behind."""
        self._hinted.clear()
        try:
            async with asyncio.timeout(_POLL_SECS):
                await self._hinted.wait()
        except TimeoutError:
            return

    async def _build(self, build: Build, lease: Lease) -> None:
        log = _Log(self._database, build, self._log_bytes)
        await log.start()
        started = datetime.now(UTC)
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew(lease))
                flushing = group.create_task(log.flush_regularly())
                try:
                    result = await self._builder.build(build, log.write)
                finally:
                    renewing.cancel()
                    flushing.cancel()
        except* PermanentError as errors:
            error = _first(errors)
            assert isinstance(error, PermanentError)
            await log.write("system", f"failed: {error.message}")
            await log.flush()
            await self._finish(build, lease, BuildState.FAILED, "", error.message, error.reason)
        except* TemporaryError as errors:
            await self._try_again(build, lease, log, _first(errors))
        except* LeaseLost:
            raise LeaseLost(build.id) from None
        else:
            took = (datetime.now(UTC) - started).total_seconds()
            await log.write("system", f"compiled in {took:.1f} s")
            await log.flush()
            await self._finish(build, lease, BuildState.SUCCEEDED, result.artifact, "", "")

    async def _try_again(
        self, build: Build, lease: Lease, log: "_Log", error: BaseException
    ) -> None:
        await log.write("system", f"interrupted: {error}")
        await log.flush()
        async with self._database.transaction() as tx:
            attempts = await tx.builds.attempts(lease)
        if attempts >= _MAX_ATTEMPTS:
            await self._finish(
                build, lease, BuildState.FAILED, "", "the build could not be run", "Platform"
            )
            return
        await asyncio.sleep(1.0)
        async with self._database.transaction() as tx:
            await tx.builds.release(lease)

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECS)
            try:
                async with self._database.transaction() as tx:
                    kept = await tx.builds.renew(lease, _LEASE)
            except Unavailable:
                continue
            if not kept:
                raise LeaseLost(lease.row_id)

    async def _finish(
        self,
        build: Build,
        lease: Lease,
        state: BuildState,
        artifact: str,
        error: str,
        reason: str,
    ) -> None:
        async with self._database.transaction() as tx:
            if not await tx.builds.finish(
                lease, state, artifact=artifact, error=error, reason=reason
            ):
                raise LeaseLost(build.id)
            if state is BuildState.SUCCEEDED:
                await tx.versions.compiled(build, artifact)
            else:
                await tx.versions.failed(build, error, reason)
            await tx.notify(APPS_CHANNEL, str(build.app_id))
            await tx.notify(BUILD_LINES_CHANNEL, build.id)
        logger.info(
            "build ended", extra={"build": build.id, "state": state.value, "reason": reason}
        )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


class _Log:
    """Collects lines and stores them in batches; past its bound it says so once and drops."""

    def __init__(self, database: Database, build: Build, max_bytes: int) -> None:
        self._database = database
        self._build = build
        self._left = max_bytes
        self._next = 1
        self._waiting: list[BuildLine] = []
        self._flushing = asyncio.Lock()

    async def start(self) -> None:
        """Go on behind the lines of an earlier attempt."""
        async with self._database.transaction() as tx:
            self._next = await tx.builds.last_line(self._build.id) + 1

    async def write(self, stream: str, message: str) -> None:
        """Take one line."""
        if self._left <= 0 and stream != "system":
            return
        message = message.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:_MAX_LINE]
        self._left -= len(message) + 1
        self._append(stream, message)
        if self._left <= 0 and stream != "system":
            self._append("system", "the log is full; further lines are dropped")

    def _append(self, stream: str, message: str) -> None:
        self._waiting.append(
            BuildLine(number=self._next, at=datetime.now(UTC), stream=stream, message=message)
        )
        self._next += 1

    async def flush_regularly(self) -> None:
        """Store what has come, several times a second."""
        while True:
            await asyncio.sleep(_FLUSH_SECS)
            try:
                await self.flush()
            except Unavailable:
                continue

    async def flush(self) -> None:
        """Store what has come."""
        async with self._flushing:
            if not self._waiting:
                return
            batch, self._waiting = self._waiting, []
            try:
                async with self._database.transaction() as tx:
                    await tx.builds.add_lines(self._build.id, batch)
                    await tx.notify(BUILD_LINES_CHANNEL, self._build.id)
            except Unavailable:
                self._waiting = batch + self._waiting
                raise
