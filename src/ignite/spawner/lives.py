"""One replica's life, from the sandbox that is made for it to the word for how it ended."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from ignite.sandbox.bubblewrap import HOME, SandboxSpec
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.etc import write_passwd
from ignite.sandbox.launcher import Running
from ignite.settings import RuntimeSettings
from ignite.spawner.folders import Folders
from ignite.spawner.health import wait_until_ready
from ignite.spawner.host import Host
from ignite.spawner.launch import replica_sandbox
from ignite.spawner.logs import SYSTEM, LogLine, LogPump, ReplicaLog
from ignite.spawner.pools import WarmPools
from ignite.spawner.record import MAX_MESSAGE_BYTES, End, Evidence, ReplicaRecord, judge
from ignite.spawner.specs import ReplicaStatus, allowed_env
from ignite.spawner.starts import Place, Starts
from ignite.telemetry.cold_starts import ColdStarts

logger = logging.getLogger(__name__)

# From the start to ready a replica may use a whole core, however small its tier is.
_BOOST_MILLICORES = 1000
_DRY_PIPE_SECS = 1.0


class Lives:
    """Leads replicas through their lives; keeps none of them."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        host: Host,
        starts: Starts,
        pools: WarmPools,
        folders: Folders,
        tell: Callable[[ReplicaStatus], None],
        clock: Callable[[], datetime],
        cold_starts: ColdStarts,
    ) -> None:
        self._settings = settings
        self._host = host
        self._starts = starts
        self._pools = pools
        self._folders = folders
        self._tell = tell
        self._clock = clock
        self._cold_starts = cold_starts

    async def live(self, record: ReplicaRecord, artifact: int) -> End:
        """Start, supervise and end it; nothing of it runs any more when this returns."""
        place = await self._place(record)
        # It says by this pipe that it serves.
        told, notify = os.pipe2(os.O_CLOEXEC)
        try:
            with self._pools.starting():
                running = await self._start(record, place, artifact=artifact, notify=notify)
            try:
                return await self._follow(record, running, place.group, told)
            finally:
                await asyncio.to_thread(running.kill)
                running.close()
        finally:
            os.close(told)
            await self._starts.leave(place)

    async def _place(self, record: ReplicaRecord) -> Place:
        waiting = self._pools.take(self._host.interpreter(record.spec.runtime))
        return waiting or await self._starts.place(record.spec.id)

    async def _start(
        self, record: ReplicaRecord, place: Place, *, artifact: int, notify: int
    ) -> Running:
        try:
            sockets = await asyncio.to_thread(self._folders.make, record.folders, place.uid)
            try:
                sandbox = await asyncio.to_thread(
                    self._prepare, record, place, artifact=artifact, sockets=sockets, notify=notify
                )
                running, record.way = await self._starts.start(record.spec, sandbox, place)
            finally:
                os.close(sockets)
        finally:
            os.close(notify)
        record.spawned_at = asyncio.get_running_loop().time()
        return running

    def _prepare(
        self, record: ReplicaRecord, place: Place, *, artifact: int, sockets: int, notify: int
    ) -> SandboxSpec:
        spec, folders, group = record.spec, record.folders, place.group
        record.log = ReplicaLog(folders.state, most_bytes=self._settings.log_bytes)
        group.limit_memory(spec.memory_mb * 1024 * 1024)
        group.limit_pids(spec.pids_max)
        group.limit_cpu(max(spec.cpu_millicores, _BOOST_MILLICORES))
        sandbox = replica_sandbox(
            spec,
            self._host,
            self._settings,
            uid=place.uid,
            artifact=artifact,
            socket_folder=sockets,
            passwd=write_passwd(folders.state / "passwd", place.uid, home=HOME),
            network="" if place.network is None else place.network.path,
        )
        return replace(sandbox, notify=notify)

    async def _follow(
        self, record: ReplicaRecord, sandboxed: Running, group: ControlGroup, told: int
    ) -> End:
        assert record.log is not None
        record.folders.remember(sandboxed.identity)
        record.set_pid(sandboxed.identity.pid)
        self._note_ignored_env(record)
        pump = LogPump({sandboxed.stdout: "stdout", sandboxed.stderr: "stderr"}, record.log.write)
        pump.start()
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(sandboxed.wait())
            with self._pools.starting():
                timed_out = await self._start_up(record, ended, tasks, group, told)
            if not ended.done() and not timed_out:
                await self._until_stop(record, ended, tasks)
            if not ended.done():
                await self._end(record, sandboxed, ended, is_killed=timed_out > 0)
            code = await ended
        oom_kills = group.oom_kills()
        await asyncio.to_thread(group.kill)
        await pump.end(_DRY_PIPE_SECS)
        return judge(
            Evidence(
                exit_code=code,
                last_words=pump.last_words(MAX_MESSAGE_BYTES),
                oom_kills=oom_kills,
                memory_mb=record.spec.memory_mb,
                was_ready=record.was_ready,
                was_stopped=record.stop_wanted.is_set(),
                timed_out_secs=timed_out,
            )
        )

    async def _start_up(
        self,
        record: ReplicaRecord,
        ended: "asyncio.Task[int]",
        tasks: asyncio.TaskGroup,
        group: ControlGroup,
        told: int,
    ) -> float:
        """Wait for ready; return the bound that was passed, or 0."""
        bound = self._settings.start_timeout_secs
        healthy = tasks.create_task(
            wait_until_ready(told, str(record.folders.socket), record.spec.health_path)
        )
        stopped = tasks.create_task(record.stop_wanted.wait())
        await _first((ended, healthy, stopped), bound)
        is_healthy = healthy.done()
        healthy.cancel()
        stopped.cancel()
        if ended.done() or record.stop_wanted.is_set():
            return 0.0
        if not is_healthy:
            return bound
        if not await asyncio.to_thread(self._folders.seal, record.folders):
            self._note(record, "there is no socket at IGNITE_SOCKET: not ready")
            return bound
        group.limit_cpu(record.spec.cpu_millicores)
        record.ready(self._clock())
        self._tell(record.status)
        self._log_start(record)
        return 0.0

    async def _until_stop(
        self, record: ReplicaRecord, ended: "asyncio.Task[int]", tasks: asyncio.TaskGroup
    ) -> None:
        stopped = tasks.create_task(record.stop_wanted.wait())
        await _first((ended, stopped), None)
        stopped.cancel()

    async def _end(
        self,
        record: ReplicaRecord,
        sandboxed: Running,
        ended: "asyncio.Task[int]",
        *,
        is_killed: bool,
    ) -> None:
        record.draining()
        self._tell(record.status)
        # Before ready there is nothing to finish.
        if record.was_ready and not is_killed and sandboxed.terminate():
            await _first((ended,), record.grace_secs)
        if not ended.done():
            await asyncio.to_thread(sandboxed.kill)

    def _log_start(self, record: ReplicaRecord) -> None:
        now = asyncio.get_running_loop().time()
        language = record.spec.runtime.language
        self._cold_starts.started(record.way, language, now - record.began_at)
        logger.info(
            "replica started",
            extra={
                "replica": record.spec.id,
                "way": record.way,
                "spawn_ms": round((record.spawned_at - record.began_at) * 1000, 1),
                "ready_ms": round((now - record.began_at) * 1000, 1),
            },
        )

    def _note_ignored_env(self, record: ReplicaRecord) -> None:
        ignored = sorted(set(record.spec.env) - set(allowed_env(record.spec.env)))
        if ignored:
            text = f"variables of the platform are not overridden: {', '.join(ignored)}"
            self._note(record, text[:1000])

    def _note(self, record: ReplicaRecord, text: str) -> None:
        """Tell the app's owner by its log."""
        assert record.log is not None
        now = int(self._clock().timestamp() * 1000)
        record.log.write(LogLine(ts_ms=now, stream=SYSTEM, message=text))


async def _first(futures: "Iterable[asyncio.Future[Any]]", within_secs: float | None) -> None:
    await asyncio.wait(futures, timeout=within_secs, return_when=asyncio.FIRST_COMPLETED)
