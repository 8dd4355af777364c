"""A fake of ports.backend: Workloads in memory.

`tests/contract/test_backend.py` holds it to what the real one does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ignite.domain.workloads import Endpoint, Replica, ReplicaState, WorkloadSpec, WorkloadStatus


@dataclass(slots=True)
class FakeWorkload:
    """One Workload; `history` has the number of replicas that every spec asked for."""

    spec: WorkloadSpec
    replicas: dict[str, Replica] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    trouble: str = ""
    trouble_message: str = ""
    history: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class FakeBackend:
    """Replicas become ready at once, but for versions in `manual`, which a test makes ready."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    manual: set[int] = field(default_factory=set)
    workloads: dict[str, FakeWorkload] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=dict)
    listeners: list["asyncio.Queue[str]"] = field(default_factory=list)

    async def apply(self, spec: WorkloadSpec) -> None:
        key = spec.ref.key
        workload = self.workloads.get(key)
        if workload is None:
            workload = self.workloads[key] = FakeWorkload(spec)
        elif workload.spec == spec:
            return
        elif workload.spec.fingerprint != spec.fingerprint:
            workload.reason = workload.message = ""
            workload.trouble = workload.trouble_message = ""
            workload.replicas.clear()
        workload.spec = spec
        workload.history.append(spec.replicas)
        while len(workload.replicas) > spec.replicas:
            workload.replicas.popitem()
        if not workload.reason:
            self._start_missing(key)
        self._hint(key)

    async def remove(self, key: str) -> None:
        if self.workloads.pop(key, None) is not None:
            self.removed.append(key)
            self._hint(key)

    async def observe(self) -> Mapping[str, WorkloadStatus]:
        return {key: self.status(key) for key in self.workloads}

    def status(self, key: str) -> WorkloadStatus:
        workload = self.workloads.get(key)
        if workload is None:
            return WorkloadStatus(key=key, replicas=())
        return WorkloadStatus(
            key=key,
            replicas=tuple(workload.replicas.values()),
            reason=workload.reason,
            message=workload.message,
            trouble=workload.trouble,
            trouble_message=workload.trouble_message,
        )

    def changes(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self.listeners.append(queue)
        return self._changes(queue)

    async def _changes(self, queue: "asyncio.Queue[str]") -> AsyncIterator[str]:
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)

    # -- what tests do ---------------------------------------------------------------------------

    def key_of(self, version: int) -> str:
        """Return the key of the one Workload of a version."""
        [key] = [key for key, found in self.workloads.items() if found.spec.ref.version == version]
        return key

    def has(self, version: int) -> bool:
        """Tell whether a version is run, with whatever number of replicas."""
        return any(found.spec.ref.version == version for found in self.workloads.values())

    def ready(self, version: int) -> int:
        """Return how many replicas of a version are ready."""
        return len(self.status(self.key_of(version)).ready) if self.has(version) else 0

    def asked(self, version: int) -> int:
        """Return how many replicas of a version are asked for."""
        return self.workloads[self.key_of(version)].spec.replicas if self.has(version) else 0

    def make_ready(self, version: int) -> None:
        """All replicas of a version become ready."""
        key = self.key_of(version)
        workload = self.workloads[key]
        for replica in list(workload.replicas.values()):
            workload.replicas[replica.id] = replace(
                replica, state=ReplicaState.READY, ready_at=self.now()
            )
        workload.reason = workload.message = ""
        workload.trouble = workload.trouble_message = ""
        self._hint(key)

    def fail(self, version: int, reason: str, message: str = "") -> None:
        """All replicas of a version end."""
        key = self.key_of(version)
        workload = self.workloads[key]
        workload.replicas.clear()
        workload.reason, workload.message = reason, message
        workload.trouble, workload.trouble_message = reason, message
        self._hint(key)

    def retry(self, version: int) -> None:
        """The back-off of a version ends."""
        key = self.key_of(version)
        self.workloads[key].reason = self.workloads[key].message = ""
        self._start_missing(key)
        self._hint(key)

    def _start_missing(self, key: str) -> None:
        workload = self.workloads[key]
        while len(workload.replicas) < workload.spec.replicas:
            number = self.started[key] = self.started.get(key, 0) + 1
            is_manual = workload.spec.ref.version in self.manual
            replica_id = f"{key}-{number}"
            workload.replicas[replica_id] = Replica(
                id=replica_id,
                workload=key,
                state=ReplicaState.STARTING if is_manual else ReplicaState.READY,
                endpoint=Endpoint(unix_path=f"/r/{number}/s"),
                started_at=self.now(),
                ready_at=None if is_manual else self.now(),
            )
            if not is_manual:
                workload.trouble = workload.trouble_message = ""

    def _hint(self, key: str) -> None:
        for queue in self.listeners:
            queue.put_nowait(key)
