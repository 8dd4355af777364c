"""Workloads: a version told to run, and the replicas that do."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId
from ignite.domain.versions import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRef:
    """Names one version's code as it runs.

    `artifact` is part of the name: a draft saved again is another Workload, and no replica is ever
    taken for code it does not run. So is `app_id`, the app's row: an app deleted and made again
    under its old name shares nothing with the first.
    """

    app: AppRef
    app_id: int
    version: int
    artifact: str

    @property
    def key(self) -> str:
        """Return `org/app@version#artifact.row`, unique over the installation."""
        return f"{self.app.id}@{self.version}#{self.artifact[:16]}.{self.app_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What should run, and how many."""

    ref: WorkloadRef
    organization_id: OrganizationId
    runtime: Runtime
    env: Mapping[str, str]
    memory_mb: int
    cpu_millicores: int
    timeout_secs: int
    max_concurrency: int
    health_path: str
    port: int
    replicas: int

    @property
    def fingerprint(self) -> str:
        """Return 8 hex digits over all that a running replica cannot change.

        It is part of a replica's id, so that after a restart of ours an old config is still known
        as such.
        """
        fixed = json.dumps(
            [
                self.ref.key,
                self.runtime.language,
                self.runtime.version,
                sorted(self.env.items()),
                self.memory_mb,
                self.cpu_millicores,
                self.timeout_secs,
                self.max_concurrency,
                self.health_path,
                self.port,
            ]
        )
        return hashlib.sha256(fixed.encode()).hexdigest()[:8]


class ReplicaState(StrEnum):
    """A replica's life; FAILED never became ready, EXITED did."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    EXITED = "exited"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a replica listens: a unix path, or a host and port."""

    unix_path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One running copy of a Workload."""

    id: str
    workload: str
    state: ReplicaState
    endpoint: Endpoint
    started_at: datetime
    ready_at: datetime | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStatus:
    """What is there now.

    `reason` and `message` tell why nothing can be started now; empty, it may be tried. `trouble`
    and `trouble_message` tell how it ended last, until a replica is ready again.
    """

    key: str
    replicas: tuple[Replica, ...]
    reason: str = ""
    message: str = ""
    trouble: str = ""
    trouble_message: str = ""

    @property
    def ready(self) -> tuple[Replica, ...]:
        """Return the replicas that may get requests."""
        return tuple(r for r in self.replicas if r.state is ReplicaState.READY)

    @property
    def alive(self) -> tuple[Replica, ...]:
        """Return the replicas that serve or will."""
        return tuple(
            r for r in self.replicas if r.state in (ReplicaState.STARTING, ReplicaState.READY)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPool:
    """Sandboxes of one runtime that are kept ready for any app."""

    runtime: Runtime
    size: int
    ready: int
