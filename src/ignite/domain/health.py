"""How the parts of an installation are, as an operator is told."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class HealthStatus(IntEnum):
    """With the wire's numbers; a greater one is worse."""

    UNSPECIFIED = 0
    HEALTHY = 1
    DEGRADED = 2
    UNHEALTHY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What one probe found. `message` is for operators; it names no secret."""

    status: HealthStatus
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentHealth:
    """A probe's finding with its name and time."""

    name: str
    health: Health
    checked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFeature:
    """One layer of the sandbox; `detail` says why not, when it is not enforced."""

    name: str
    enforced: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxHealth:
    """How well replicas are isolated, as measured; not `sufficient` means code is refused."""

    level: str
    required_level: str
    sufficient: bool
    features: tuple[SandboxFeature, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHealth:
    """Everything together."""

    components: tuple[ComponentHealth, ...]
    version: str
    backend: str
    sandbox: SandboxHealth | None

    @property
    def status(self) -> HealthStatus:
        """Return the worst of the components, at best degraded where the sandbox is too weak."""
        found = [component.health.status for component in self.components]
        if self.sandbox is not None and not self.sandbox.sufficient:
            found.append(HealthStatus.DEGRADED)
        return worst(found)


def worst(statuses: Iterable[HealthStatus]) -> HealthStatus:
    """Return the worst; HEALTHY for none."""
    return max(statuses, default=HealthStatus.HEALTHY)
