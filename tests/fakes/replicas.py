"""A fake of ports.replicas: replicas in memory that become ready and end when a test says so.

`tests/contract/test_backend.py` holds it, behind the real backend, to what the spawner does.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime

from tests.fakes.clock import loop_now

from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.workloads import Endpoint, Replica, ReplicaState, WorkloadSpec
from ignite.ports.replicas import ReplicaChanges


@dataclass(slots=True, kw_only=True)
class FakeDriver:
    """`is_automatic`: replicas become ready at once, and end as soon as they are told to.

    `refusal` is raised by every start; while `is_away` every call fails and watches break;
    `gate` holds back starts while it is clear.
    """

    is_automatic: bool = True
    refusal: PermanentError | None = None
    is_away: bool = False
    replicas: dict[str, Replica] = field(default_factory=dict)
    specs: dict[str, WorkloadSpec] = field(default_factory=dict)
    stops: list[tuple[str, float, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: list["asyncio.Queue[ReplicaChanges | None]"] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def start(self, replica_id: str, spec: WorkloadSpec) -> None:
        await self.gate.wait()
        self._reach()
        if self.refusal is not None:
            raise self.refusal
        if replica_id in self.specs:
            return
        self.specs[replica_id] = spec
        self.add(replica_id, spec.ref.key)
        if self.is_automatic:
            self.make_ready(replica_id)

    async def stop(self, replica_id: str, grace_secs: float, reason: str) -> None:
        self._reach()
        self.stops.append((replica_id, grace_secs, reason))
        if replica_id not in self.replicas:
            return
        self._change(replica_id, state=ReplicaState.DRAINING)
        if self.is_automatic:
            self.end(replica_id, reason="Stopped")

    async def watch(self) -> AsyncGenerator[ReplicaChanges, None]:
        if self.is_away:
            raise TemporaryError("the driver is away")
        queue: asyncio.Queue[ReplicaChanges | None] = asyncio.Queue()
        self.watchers.append(queue)
        try:
            yield ReplicaChanges(is_snapshot=True, replicas=tuple(self.replicas.values()))
            while (changes := await queue.get()) is not None:
                yield changes
            raise TemporaryError("the driver is away")
        finally:
            self.watchers.remove(queue)

    # -- what tests do ---------------------------------------------------------------------------

    def add(
        self, replica_id: str, workload: str, state: ReplicaState = ReplicaState.STARTING
    ) -> None:
        """Let there be a replica."""
        self.replicas[replica_id] = Replica(
            id=replica_id,
            workload=workload,
            state=state,
            endpoint=Endpoint(unix_path=f"/r/{replica_id}/s"),
            started_at=loop_now(),
            ready_at=loop_now() if state is ReplicaState.READY else None,
        )
        self._tell(self.replicas[replica_id])

    def make_ready(self, replica_id: str) -> None:
        """A replica that starts becomes ready."""
        self._change(replica_id, state=ReplicaState.READY, ready_at=loop_now())

    def end(self, replica_id: str, *, reason: str = "Crashed", message: str = "") -> None:
        """A replica ends: EXITED when it was ready, else FAILED."""
        replica = self.replicas.pop(replica_id)
        state = ReplicaState.FAILED if replica.ready_at is None else ReplicaState.EXITED
        self._tell(replace(replica, state=state, reason=reason, message=message))

    def leave(self) -> None:
        """Go away, with all replicas."""
        self.is_away = True
        self.replicas.clear()
        self.break_watches()

    def break_watches(self) -> None:
        """End every watch; replicas live on."""
        for queue in self.watchers:
            queue.put_nowait(None)

    def of(self, key: str, state: ReplicaState | None = None) -> list[str]:
        """Return the ids of a Workload's replicas, oldest first."""
        return [
            replica.id
            for replica in self.replicas.values()
            if replica.workload == key and state in (None, replica.state)
        ]

    def _change(
        self, replica_id: str, *, state: ReplicaState, ready_at: datetime | None = None
    ) -> None:
        replica = self.replicas[replica_id]
        replica = replace(replica, state=state, ready_at=ready_at or replica.ready_at)
        self.replicas[replica_id] = replica
        self._tell(replica)

    def _tell(self, replica: Replica) -> None:
        for queue in self.watchers:
            queue.put_nowait(ReplicaChanges(is_snapshot=False, replicas=(replica,)))

    def _reach(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if self.is_away:
            raise TemporaryError("the driver is away")


@dataclass(slots=True, kw_only=True)
class FakeDrain:
    """A fake of ports.routes.Drain; `gate` holds acknowledgements back while it is clear."""

    away: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def route_away(self, replica_ids: Collection[str]) -> None:
        self.away.extend(replica_ids)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
