"""The port of runtime backends."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from ignite.domain.workloads import WorkloadSpec, WorkloadStatus


class RuntimeBackend(Protocol):
    """Runs Workloads somewhere. Calls are idempotent and do not wait for readiness.

    A Workload of an earlier process runs on as it was until `apply` or `remove` is called for it.
    """

    async def apply(self, spec: WorkloadSpec) -> None:
        """Make the Workload so. An equal spec changes nothing."""

    async def remove(self, key: str) -> None:
        """Drain, stop and forget the Workload with this key. An absent one is success."""

    async def observe(self) -> Mapping[str, WorkloadStatus]:
        """Return all Workloads that exist by key, also those of an earlier process."""

    def status(self, key: str) -> WorkloadStatus:
        """Return one Workload as last seen, from memory; an unknown one has no replicas."""

    def changes(self) -> AsyncIterator[str]:
        """Yield keys of Workloads as hints that something changed since this call.

        Hints may double or be lost.
        """
