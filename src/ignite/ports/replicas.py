"""The port of drivers: what starts and stops single replicas on one machine."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from ignite.domain.workloads import Replica, WorkloadSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaChanges:
    """Some replicas as they are now; with `is_snapshot`, all there are."""

    is_snapshot: bool
    replicas: tuple[Replica, ...]


class ReplicaDriver(Protocol):
    """Owns replicas; what it started outlives its callers. Calls are idempotent."""

    async def start(self, replica_id: str, spec: WorkloadSpec) -> None:
        """Start one replica; returns before it is ready.

        Raises PermanentError when this machine can never run it (`reason` says why), TemporaryError
        otherwise: it is then not known whether the replica was started.
        """

    async def stop(self, replica_id: str, grace_secs: float, reason: str) -> None:
        """Drain and stop in the background; an unknown id is success. Raises TemporaryError."""

    def watch(self) -> AsyncGenerator[ReplicaChanges, None]:
        """Yield a snapshot, then changes; raises TemporaryError when the driver is gone."""
