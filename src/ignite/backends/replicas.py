"""Workloads on one machine: keeps as many replicas as asked for, through a driver.

Order matters here. Up: start, ready, then the caller routes to it. Down: route away, acknowledged
by the gateways, then stop. A replica whose config is old is replaced only once a new one is ready.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ulid import ULID

from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.workloads import (
    Endpoint,
    Replica,
    ReplicaState,
    WorkloadSpec,
    WorkloadStatus,
)
from ignite.ports.replicas import ReplicaDriver
from ignite.ports.routes import Drain

logger = logging.getLogger(__name__)

_ALIVE = (ReplicaState.STARTING, ReplicaState.READY)
_NOWHERE = Endpoint()
_FIRST_DELAY = timedelta(seconds=1)
_LONGEST_DELAY = timedelta(seconds=60)


@dataclass(slots=True)
class _Workload:
    key: str
    spec: WorkloadSpec | None = None
    replicas: dict[str, Replica] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    reason: str = ""
    message: str = ""
    failures: int = 0
    retry_at: datetime | None = None

    def alive(self) -> list[Replica]:
        """Return replicas that start or serve and are not on their way out, oldest first."""
        found = [
            replica
            for replica in self.replicas.values()
            if replica.state in _ALIVE and replica.id not in self.leaving
        ]
        return sorted(found, key=lambda replica: replica.started_at)


class ReplicaBackend:
    """`ports.backend.RuntimeBackend` over a ReplicaDriver. A Component: run it to converge."""

    name = "replica-backend"

    def __init__(
        self,
        driver: ReplicaDriver,
        drain: Drain,
        *,
        now: Callable[[], datetime],
        stop_grace_secs: float,
    ) -> None:
        self._driver = driver
        self._drain = drain
        self._now = now
        self._stop_grace_secs = stop_grace_secs
        self._workloads: dict[str, _Workload] = {}
        self._dirty: asyncio.Queue[str] = asyncio.Queue()
        self._hints: set[asyncio.Queue[str]] = set()
        self._known = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._calling: set[str] = set()

    async def apply(self, spec: WorkloadSpec) -> None:
        """Make the Workload so. An equal spec changes nothing."""
        workload = self._workloads.setdefault(spec.ref.key, _Workload(key=spec.ref.key))
        before = workload.spec
        if before == spec:
            return
        if before is not None and before.fingerprint != spec.fingerprint:
            self._forgive(workload)
        workload.spec = spec
        self._dirty.put_nowait(workload.key)

    async def remove(self, key: str) -> None:
        """Drain, stop and forget the Workload. An absent one is success."""
        if (workload := self._workloads.get(key)) is not None:
            workload.spec = None
            self._dirty.put_nowait(key)

    async def observe(self) -> Mapping[str, WorkloadStatus]:
        """Return all Workloads by key; waits for the driver's first snapshot."""
        await self._known.wait()
        return {key: self._status(workload) for key, workload in self._workloads.items()}

    def status(self, key: str) -> WorkloadStatus:
        """Return one Workload as it is now; an unknown one has no replicas."""
        workload = self._workloads.get(key)
        return self._status(workload) if workload else WorkloadStatus(key=key, replicas=())

    async def changes(self) -> AsyncIterator[str]:
        """Yield keys of Workloads that changed."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._hints.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._hints.discard(queue)

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow the driver and converge until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch())
            await self._known.wait()
            ready()
            while True:
                self._converge(await self._dirty.get())

    def _status(self, workload: _Workload) -> WorkloadStatus:
        return WorkloadStatus(
            key=workload.key,
            replicas=tuple(
                replace(replica, state=ReplicaState.DRAINING)
                if replica.id in workload.leaving and replica.state in _ALIVE
                else replica
                for replica in workload.replicas.values()
            ),
            reason=workload.reason,
            message=workload.message,
        )

    def _hint(self, key: str) -> None:
        for queue in self._hints:
            queue.put_nowait(key)

    # -- following the driver --------------------------------------------------------------------

    async def _watch(self) -> None:
        delay = 0.05
        while True:
            try:
                async for changes in self._driver.watch():
                    delay = 0.05
                    if changes.is_snapshot:
                        self._forget_all_but({replica.id for replica in changes.replicas})
                    for replica in changes.replicas:
                        self._see(replica)
                    self._known.set()
            except TemporaryError as error:
                logger.warning("replica driver is gone", extra={"error": str(error)})
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    def _forget_all_but(self, living: set[str]) -> None:
        for workload in self._workloads.values():
            gone = [key for key in workload.replicas if key not in living | self._calling]
            for key in gone:
                del workload.replicas[key]
                workload.leaving.discard(key)
            if gone:
                self._touch(workload)

    def _see(self, replica: Replica) -> None:
        workload = self._workloads.setdefault(replica.workload, _Workload(key=replica.workload))
        before = workload.replicas.get(replica.id)
        match replica.state:
            case ReplicaState.EXITED | ReplicaState.FAILED:
                wanted = replica.id not in workload.leaving
                workload.replicas.pop(replica.id, None)
                workload.leaving.discard(replica.id)
                if wanted and before is not None:
                    self._blame(workload, replica, before)
            case ReplicaState.READY:
                workload.replicas[replica.id] = replica
                if before is None or before.state is not ReplicaState.READY:
                    workload.reason = workload.message = ""
            case _:
                workload.replicas[replica.id] = replica
        self._touch(workload)

    def _touch(self, workload: _Workload) -> None:
        self._dirty.put_nowait(workload.key)
        self._hint(workload.key)

    def _blame(self, workload: _Workload, replica: Replica, before: Replica) -> None:
        """Count an unwanted end; a replica that served for a while starts the count anew."""
        served = before.ready_at is not None and self._now() - before.ready_at > _LONGEST_DELAY
        workload.failures = 1 if served else workload.failures + 1
        delay = min(_FIRST_DELAY * 2 ** (workload.failures - 1), _LONGEST_DELAY)
        if replica.state is ReplicaState.EXITED and workload.failures == 1:
            delay = timedelta(0)
        self._postpone(workload, delay)
        if replica.state is ReplicaState.FAILED:
            workload.reason, workload.message = replica.reason or "Crashed", replica.message
        logger.warning(
            "replica ended",
            extra={
                "replica": replica.id,
                "workload": workload.key,
                "reason": replica.reason,
                "failures": workload.failures,
            },
        )

    def _postpone(self, workload: _Workload, delay: timedelta) -> None:
        workload.retry_at = self._now() + delay
        loop = asyncio.get_running_loop()
        if (old := self._timers.pop(workload.key, None)) is not None:
            old.cancel()
        self._timers[workload.key] = loop.call_later(
            delay.total_seconds(), self._retry, workload.key
        )

    def _retry(self, key: str) -> None:
        """End the back-off: the reason is forgotten, so that the next request may try again."""
        self._timers.pop(key, None)
        if (workload := self._workloads.get(key)) is not None:
            workload.retry_at = None
            workload.reason = workload.message = ""
            self._touch(workload)

    def _forgive(self, workload: _Workload) -> None:
        if (timer := self._timers.pop(workload.key, None)) is not None:
            timer.cancel()
        workload.failures = 0
        workload.retry_at = None
        workload.reason = workload.message = ""

    # -- converging ------------------------------------------------------------------------------

    def _converge(self, key: str) -> None:
        workload = self._workloads.get(key)
        if workload is None:
            return
        if workload.spec is None:
            for replica in workload.alive():
                self._retire(workload, replica, "removed")
            if not workload.replicas:
                self._forgive(workload)
                del self._workloads[key]
            return
        self._converge_to(workload, workload.spec)

    def _converge_to(self, workload: _Workload, spec: WorkloadSpec) -> None:
        alive = workload.alive()
        current = [r for r in alive if fingerprint_of(r.id) == spec.fingerprint]
        outdated = [r for r in alive if fingerprint_of(r.id) != spec.fingerprint]
        if workload.retry_at is None:
            for _ in range(spec.replicas - len(current)):
                self._start(workload, spec)
        ready = sum(1 for r in current if r.state is ReplicaState.READY)
        for replica in outdated:
            # An old config serves until as many new ones are ready; one that never got ready goes.
            if replica.state is ReplicaState.STARTING or ready >= min(spec.replicas, len(outdated)):
                self._retire(workload, replica, "outdated")
        surplus = len(current) - spec.replicas
        starting_first = sorted(
            current, key=lambda r: (r.state is ReplicaState.READY, -r.started_at.timestamp())
        )
        for replica in starting_first[: max(surplus, 0)]:
            self._retire(workload, replica, "scaled in")

    def _start(self, workload: _Workload, spec: WorkloadSpec) -> None:
        replica = Replica(
            id=replica_id(spec),
            workload=workload.key,
            state=ReplicaState.STARTING,
            endpoint=_NOWHERE,
            started_at=self._now(),
        )
        workload.replicas[replica.id] = replica
        self._calling.add(replica.id)
        self._spawn(self._start_one(replica, spec))

    async def _start_one(self, replica: Replica, spec: WorkloadSpec) -> None:
        try:
            await self._driver.start(replica.id, spec)
        except PermanentError as error:
            self._see(_failed(replica, error.reason, error.message))
        except TemporaryError as error:
            self._see(_failed(replica, "BackendUnavailable", str(error)))
        finally:
            self._calling.discard(replica.id)

    def _retire(self, workload: _Workload, replica: Replica, why: str) -> None:
        if replica.id in workload.leaving:
            return
        workload.leaving.add(replica.id)
        self._hint(workload.key)
        grace = self._stop_grace_secs
        if workload.spec is not None:
            grace = max(grace, workload.spec.timeout_secs)
        self._spawn(self._retire_one(replica, grace, why))

    async def _retire_one(self, replica: Replica, grace: float, why: str) -> None:
        await self._drain.route_away([replica.id])
        while True:
            try:
                await self._driver.stop(replica.id, grace, why)
            except TemporaryError as error:
                logger.warning(
                    "replica not stopped yet", extra={"replica": replica.id, "error": str(error)}
                )
                await asyncio.sleep(error.after.total_seconds())
            else:
                return

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        assert self._group is not None, "applied before run"
        self._group.create_task(work)


def _failed(replica: Replica, reason: str, message: str) -> Replica:
    return replace(replica, state=ReplicaState.FAILED, reason=reason, message=message)


def replica_id(spec: WorkloadSpec) -> str:
    """Return a new id of at most 60 characters: the app's name, the fingerprint, a ULID."""
    name = re.sub(r"[^a-z0-9]+", "-", spec.ref.app.name)[:20].strip("-")
    return f"{name}-{spec.fingerprint}-{str(ULID()).lower()}"


def fingerprint_of(replica_id: str) -> str:
    """Return the fingerprint inside a replica's id."""
    parts = replica_id.rsplit("-", 2)
    return parts[1] if len(parts) == 3 else ""
