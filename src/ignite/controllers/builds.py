"""Runs builds: claims them with a lease, compiles, stores the log, applies the result."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from ulid import ULID

from ignite.controllers.build_log import LEASE, SYSTEM, BuildLog, LeaseLost
from ignite.db.database import (
    APPS_CHANNEL,
    BUILD_LINES_CHANNEL,
    BUILDS_CHANNEL,
    Database,
)
from ignite.db.leases import Lease
from ignite.domain.builds import Build, BuildState
from ignite.domain.errors import PermanentError, TemporaryError, Unavailable
from ignite.ports.builder import Builder

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 8

_POLL_SECS = 2.0
_LONGEST_DELAY = timedelta(seconds=15)
_RELEASE_SECS = 2.0
_FINISH_SECS = 30.0
_PLATFORM = "Platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    build: Build
    lease: Lease
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How one attempt ended; with `again_after` it is not the build's end."""

    state: BuildState
    artifact: str = ""
    runtime_version: str = ""
    error: str = ""
    reason: str = ""
    again_after: timedelta | None = None


class Builds:
    """The build controller. A Component.

    A worker that is stopped gives its build back; one that dies loses it when its lease runs out.
    Either way another worker takes it up, at most `MAX_ATTEMPTS` times in all.
    """

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
            # Cleared before looking: a hint from here on is not lost.
            self._hinted.clear()
            try:
                claim = await self._claim()
                if claim is not None:
                    # More may wait than there were hints.
                    self._hinted.set()
                    await self._run(claim)
                    continue
            except Unavailable:
                logger.warning("builds: the database does not answer")
            except Exception:  # a bug of ours must not stop the queue
                logger.exception("build worker failed")
            await self._wait()

    async def _wait(self) -> None:
        """Wait for a hint; the poll finds what a lost hint or a lost worker left behind."""
        try:
            async with asyncio.timeout(_POLL_SECS * random.uniform(0.8, 1.2)):  # noqa: S311
                await self._hinted.wait()
        except TimeoutError:
            return

    async def _claim(self) -> _Claim | None:
        async with self._database.transaction() as tx:
            claimed = await tx.builds.claim(self._owner, str(ULID()), LEASE)
            if claimed is None:
                return None
            build, lease = claimed
            return _Claim(build=build, lease=lease, attempts=await tx.builds.attempts(lease))

    async def _run(self, claim: _Claim) -> None:
        log = BuildLog(self._database, claim.build, claim.lease, self._log_bytes)
        try:
            await log.start()
            end = await self._attempt(claim, log)
            await self._record(claim, log, end)
        except asyncio.CancelledError:
            await self._give_back(claim, log)
            raise
        except LeaseLost:
            logger.warning("lease lost", extra={"build": claim.build.id})

    async def _attempt(self, claim: _Claim, log: BuildLog) -> _End:
        """Compile while the lease is kept; raises LeaseLost."""
        if claim.attempts > MAX_ATTEMPTS:
            return await _unrunnable(log)
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(log.keep())
                try:
                    return await self._compile(claim, log)
                finally:
                    keeping.cancel()
        except* LeaseLost:
            raise LeaseLost(claim.build.id) from None

    async def _compile(self, claim: _Claim, log: BuildLog) -> _End:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            result = await self._builder.build(claim.build, log.write)
        except PermanentError as error:
            await log.write(SYSTEM, f"failed: {error.message}")
            return _End(state=BuildState.FAILED, error=error.message, reason=error.reason)
        except (TemporaryError, Unavailable) as error:
            await log.write(SYSTEM, f"interrupted: {error}")
            if claim.attempts >= MAX_ATTEMPTS:
                return await _unrunnable(log)
            after = error.after if isinstance(error, TemporaryError) else timedelta(seconds=1)
            again_after = min(after * (1 << (claim.attempts - 1)), _LONGEST_DELAY)
            return _End(state=BuildState.RUNNING, again_after=again_after)
        except Exception:
            logger.exception("build crashed", extra={"build": claim.build.id})
            await log.write(SYSTEM, "failed: internal error")
            return _End(state=BuildState.FAILED, error="internal error", reason="Internal")
        await log.write(SYSTEM, f"compiled in {loop.time() - started:.1f} s")
        return _End(
            state=BuildState.SUCCEEDED,
            artifact=result.artifact,
            runtime_version=result.runtime_version,
        )

    async def _record(self, claim: _Claim, log: BuildLog, end: _End) -> None:
        """Write the end of an attempt; waits a while for a database that is away."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FINISH_SECS
        while True:
            try:
                await log.flush()
                if end.again_after is not None:
                    await self._put_off(claim, end.again_after)
                else:
                    await self._finish(claim, end)
            except LeaseLost:
                raise
            except Exception:
                if loop.time() > deadline:
                    # The lease runs out by itself and the build is taken up again.
                    raise
                logger.warning("result not stored yet", extra={"build": claim.build.id})
                await asyncio.sleep(1.0)
            else:
                return

    async def _put_off(self, claim: _Claim, after: timedelta) -> None:
        """Let the lease run out soon: the build is claimed again then, by whoever is free."""
        async with self._database.transaction() as tx:
            await tx.builds.renew(claim.lease, after)

    async def _finish(self, claim: _Claim, end: _End) -> None:
        build = claim.build
        async with self._database.transaction() as tx:
            if not await tx.builds.finish(
                claim.lease,
                end.state,
                artifact=end.artifact,
                runtime_version=end.runtime_version,
                error=end.error,
                reason=end.reason,
            ):
                raise LeaseLost(build.id)
            if end.state is BuildState.SUCCEEDED:
                await tx.versions.compiled(build, end.artifact, end.runtime_version)
            else:
                await tx.versions.failed(build, end.error, end.reason)
            await tx.notify(APPS_CHANNEL, str(build.app_id))
            await tx.notify(BUILD_LINES_CHANNEL, build.id)
        logger.info(
            "build ended",
            extra={"build": build.id, "state": end.state.value, "reason": end.reason},
        )

    async def _give_back(self, claim: _Claim, log: BuildLog) -> None:
        """Release the build on the way out, so that it goes on at once elsewhere."""
        try:
            async with asyncio.timeout(_RELEASE_SECS):
                await log.write(SYSTEM, "interrupted: the builder is being stopped")
                await log.flush()
                async with self._database.transaction() as tx:
                    await tx.builds.release(claim.lease)
                    await tx.notify(BUILDS_CHANNEL, claim.build.id)
        except LeaseLost:
            return
        except Exception:  # the lease runs out by itself
            logger.warning("build not released", extra={"build": claim.build.id}, exc_info=True)


async def _unrunnable(log: BuildLog) -> _End:
    message = "the build could not be run"
    await log.write(SYSTEM, f"failed: {message}")
    return _End(state=BuildState.FAILED, error=message, reason=_PLATFORM)
