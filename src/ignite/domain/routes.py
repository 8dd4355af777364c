"""Routes: which host and which version leads to which replicas. What the gateway knows."""

from dataclasses import dataclass

from ignite.domain.apps import AppRef
from ignite.domain.identity import PUBLIC_ORGANIZATION, OrganizationId
from ignite.domain.workloads import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One Workload as the gateway sees it; `key` is the Workload's.

    `is_active` marks the version that the app's hostnames lead to; the others are reached over the
    internal listener by number. `failure_reason` says that a start is known to be impossible now.
    """

    key: str
    app: AppRef
    organization_id: OrganizationId
    version: int
    is_active: bool
    hostnames: tuple[str, ...]
    allow_unauthenticated: bool
    timeout_secs: int
    max_concurrency: int
    replicas: tuple[Replica, ...] = ()
    failure_reason: str = ""
    failure_message: str = ""

    @property
    def is_public(self) -> bool:
        """Tell whether any authenticated caller may invoke it."""
        return self.app.organization == PUBLIC_ORGANIZATION

    @property
    def is_warm(self) -> bool:
        """Tell whether a replica is ready."""
        return bool(self.replicas)
