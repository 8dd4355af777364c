"""Supervises replicas: each is one task from its start to its end.

STARTING → READY → DRAINING → EXITED, or FAILED where it never became ready. A replica that has
ended stays listed for a while, so that a caller that was away still learns why.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from ignite.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    Unavailable,
)
from ignite.domain.workloads import Endpoint, ReplicaState
from ignite.layout import Layout
from ignite.sandbox.paths import open_folder
from ignite.settings import RuntimeSettings
from ignite.spawner.folders import MAX_SOCKET_PATH, Folders
from ignite.spawner.forks import ForkServers
from ignite.spawner.host import Host
from ignite.spawner.lives import Lives
from ignite.spawner.logs import LogLine, LogQueue, read_history
from ignite.spawner.pools import WarmPools
from ignite.spawner.record import End, ReplicaRecord
from ignite.spawner.specs import ReplicaSpec, ReplicaStatus, check_id, check_replica
from ignite.spawner.starts import Starts
from ignite.spawner.watchers import Watchers
from ignite.telemetry.cold_starts import ColdStarts

logger = logging.getLogger(__name__)

ENDED_KEPT = 500
ENDED_KEPT_SECS = 300.0
SHUTDOWN_GRACE_SECS = 5.0
MAX_HISTORY = 10_000


class Replicas:
    """All replicas of this machine. A lifecycle component."""

    name = "replicas"

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        layout: Layout,
        host: Host,
        starts: Starts,
        forks: ForkServers,
        pools: WarmPools,
        cold_starts: ColdStarts,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._host = host
        self._forks = forks
        self._pools = pools
        self._clock = clock
        self._folders = Folders(layout, host.owner, is_root=host.tools.is_root)
        self._records: dict[str, ReplicaRecord] = {}
        self._watchers = Watchers()
        self._lives = Lives(
            settings=settings,
            host=host,
            starts=starts,
            pools=pools,
            folders=self._folders,
            tell=self._watchers.tell,
            clock=clock,
            cold_starts=cold_starts,
        )
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Sweep what an earlier spawner left, then supervise until cancelled."""
        await asyncio.to_thread(self._folders.open)
        try:
            swept = await asyncio.to_thread(self._folders.sweep, self._host.groups)
            if swept:
                logger.info("leftovers removed", extra={"count": swept})
            async with asyncio.TaskGroup() as tasks:
                await self._forks.open(tasks)
                self._pools.open(tasks)
                self._tasks = tasks
                ready()
                try:
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None
                    await self._stop_all()
                    await self._pools.close()
                    # Last: what they forked ends with them.
                    await self._forks.close()
        finally:
            self._folders.close()
            self._host.groups.close()

    async def start(self, spec: ReplicaSpec) -> ReplicaStatus:
        """Begin to start a replica and return its status; one that exists is left as it is."""
        check_replica(spec)
        if known := self._records.get(spec.id):
            return known.status
        if self._tasks is None:
            raise Unavailable("the spawner is stopping", reason="Stopping")
        if refusal := self._host.report.refusal:
            raise FailedPrecondition(
                f"the sandbox is weaker than asked for: {refusal}", reason="SandboxTooWeak"
            )
        # Said now rather than by a replica that fails.
        self._host.interpreter(spec.runtime)
        folders = self._folders.of(spec.id)
        if len(str(folders.socket)) > MAX_SOCKET_PATH:
            raise FailedPrecondition("the path of the run folder is too long for sockets")
        if folders.state.exists():
            raise AlreadyExists("replica_id was used before", reason="ReplicaIdUsed")
        artifact = open_folder(
            spec.artifact_path, [self._layout.artifacts, self._layout.builds], field="artifact_path"
        )
        status = ReplicaStatus(
            id=spec.id,
            workload=spec.workload,
            state=ReplicaState.STARTING,
            endpoint=Endpoint(unix_path=str(folders.socket)),
            pid=0,
            started_at=self._clock(),
        )
        began_at = asyncio.get_running_loop().time()
        record = ReplicaRecord(spec=spec, status=status, folders=folders, began_at=began_at)
        self._records[spec.id] = record
        self._watchers.tell(status)
        self._tasks.create_task(self._supervise(record, artifact), name=f"replica {spec.id}")
        return status

    def stop(self, replica_id: str, grace_secs: float | None, reason: str = "") -> None:
        """Begin to drain and end a replica; one that is not there is success."""
        record = self._records.get(replica_id)
        if record is None or record.status.is_ended:
            return
        if not record.stop_wanted.is_set():
            logger.info("replica stops", extra={"replica": replica_id, "why": reason})
        # A request under way may take the app's whole time; whoever asks for less gets less.
        most = max(self._settings.stop_grace_secs, record.spec.timeout_secs)
        wanted = record.spec.drain_grace_secs if grace_secs is None else grace_secs
        record.grace_secs = min(most, wanted)
        record.stop_wanted.set()

    def list(self) -> tuple[ReplicaStatus, ...]:
        """Return all replicas, those that ended lately included."""
        self._forget_old()
        return tuple(record.status for record in self._records.values())

    def watch(self) -> AsyncIterator[tuple[bool, tuple[ReplicaStatus, ...]]]:
        """Yield (True, all), then (False, those that changed)."""
        return self._watchers.watch(self.list)

    async def logs(
        self, replica_ids: tuple[str, ...], limit: int, *, is_following: bool
    ) -> AsyncIterator[tuple[str, LogLine]]:
        """Yield the newest lines that replicas wrote by time, then those they write.

        Ended ones and unknown ids have only what is still on disk.
        """
        limit = min(limit, MAX_HISTORY)
        async with AsyncExitStack() as following:
            queue: LogQueue = asyncio.Queue(maxsize=10_000)
            alive = [record.log for i in replica_ids if (record := self._records.get(i))]
            open_logs = [log for log in alive if log is not None and not log.is_closed]
            for log in open_logs if is_following else ():
                following.enter_context(log.follow(queue))
            folders = [self._folders.of(check_id(i, "replica_ids")) for i in replica_ids]
            history = await asyncio.to_thread(
                lambda: [(f.id, line) for f in folders for line in read_history(f.state, limit)]
            )
            history.sort(key=lambda entry: entry[1].ts_ms)
            for entry in history[-limit:] if limit else ():
                yield entry
            ends = len(open_logs) if is_following else 0
            while ends:
                replica_id, line = await queue.get()
                if line is None:
                    ends -= 1
                else:
                    yield replica_id, line

    async def _supervise(self, record: ReplicaRecord, artifact: int) -> None:
        try:
            end = await self._lives.live(record, artifact)
        except Exception:
            logger.exception("replica cannot be supervised", extra={"replica": record.spec.id})
            end = End(exit_code=None, reason="SandboxFailed", message="the sandbox was not made")
        finally:
            os.close(artifact)
            if record.log is not None:
                record.log.close()
            await asyncio.to_thread(self._folders.forget, record.folders)
        record.end(end, self._clock())
        record.ended_at = asyncio.get_running_loop().time()
        self._watchers.tell(record.status)
        logger.info("replica ended", extra={"replica": record.spec.id, "reason": end.reason})
        self._forget_old()
        await asyncio.to_thread(self._folders.drop_old_logs, set(self._records))

    async def _stop_all(self) -> None:
        for replica_id in self._records:
            self.stop(replica_id, SHUTDOWN_GRACE_SECS, "the spawner stops")
        deadline = asyncio.get_running_loop().time() + 2 * SHUTDOWN_GRACE_SECS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._watchers.until(
                    lambda: all(record.status.is_ended for record in self._records.values())
                )

    def _forget_old(self) -> None:
        now = asyncio.get_running_loop().time()
        ended = [record for record in self._records.values() if record.status.is_ended]
        ended.sort(key=lambda record: record.ended_at)
        surplus = len(ended) - ENDED_KEPT
        for place, record in enumerate(ended):
            if place < surplus or now - record.ended_at > ENDED_KEPT_SECS:
                del self._records[record.spec.id]
