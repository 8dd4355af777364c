"""Apps: what a user names, configures and deploys (spec 3, 4). Version 0 is the draft."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from ignite.domain.errors import InvalidArgument
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.runtimes import Runtime

DRAFT = 0
DEFAULT_PORT = 80
DEFAULT_HEALTH_PATH = "/healthz"
MAX_LABEL = 63

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class ResourceTier(IntEnum):
    """Sizes with the wire's numbers."""

    UNSPECIFIED = 0
    SMALL = 1
    MEDIUM = 2
    LARGE = 3
    XLARGE = 4


class DeploymentState(IntEnum):
    """Where an app stands, with the wire's numbers."""

    UNSPECIFIED = 0
    PROVISIONING = 1
    DEPLOYED = 2
    COLD = 3
    ARCHIVED = 4
    ACTIVATING = 5
    FAILED = 6
    COMPILING = 7
    CREATED = 8


class StorageMode(IntEnum):
    """How long an app is kept, with the wire's numbers."""

    UNSPECIFIED = 0
    PERSISTENT = 1
    EPHEMERAL = 2
    TTL = 3


class ScaleMetric(IntEnum):
    """What demand is measured in."""

    UNSPECIFIED = 0
    REQUEST_RATE = 1
    CONCURRENCY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRef:
    """Names one app of one organisation."""

    organization: OrganizationName
    name: str

    @property
    def id(self) -> str:
        """Return `org/name`, the id on the wire."""
        return f"{self.organization}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """Explicit limits; None leaves the tier's value."""

    memory_mb: int | None = None
    cpu_millicores: int | None = None
    timeout_secs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A user's scaling wishes; 0 means the platform's default."""

    max_replicas: int = 0
    reserved_capacity: int = 0
    scale_threshold: int = 0
    scale_metric: ScaleMetric = ScaleMetric.UNSPECIFIED
    scaledown_period_secs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """Everything a user sets about an app but its code.

    `runtime` is what the user announced at create: a label for people, the code's own decides.
    """

    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    tier: ResourceTier = ResourceTier.SMALL
    limits: ResourceLimits = ResourceLimits()
    scaling: Scaling = Scaling()
    ports: tuple[int, ...] = ()
    health_path: str = ""
    max_concurrency: int = 0
    mcp_enabled: bool = False
    allow_unauthenticated: bool = False
    input_schema: str = ""
    output_schema: str = ""
    storage_mode: StorageMode = StorageMode.PERSISTENT
    ttl_seconds: int = 0
    tags: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    author: str = ""
    input_modality: str = ""
    output_modality: str = ""
    runtime: Runtime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app as the database holds it.

    `generation` counts changes of what should run; `observed_generation` is the last one that the
    deployment controller has made so. `target_version` is the version being published; it equals
    `active_version` when nothing is under way.
    """

    id: int
    ref: AppRef
    organization_id: OrganizationId
    config: AppConfig
    state: DeploymentState
    active_version: int
    target_version: int
    generation: int
    observed_generation: int
    error: str
    error_reason: str
    created_at: datetime
    updated_at: datetime


KEPT_DESCRIPTION_CHARS = 512
"""Of an app with a longer one lists keep nothing: what they keep is bounded in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppSummary:
    """What lists show of an app. Compared by identity: what is made of one is kept beside it."""

    ref: AppRef
    description: str
    tier: ResourceTier
    ports: tuple[int, ...]
    state: DeploymentState
    active_version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveLimits:
    """Limits with the tier's values filled in."""

    memory_mb: int
    cpu_millicores: int
    timeout_secs: int


DEFAULT_TIMEOUT_SECS = 60

_TIERS = {
    ResourceTier.SMALL: (256, 250),
    ResourceTier.MEDIUM: (512, 500),
    ResourceTier.LARGE: (1024, 1000),
    ResourceTier.XLARGE: (2048, 2000),
}


def effective_limits(config: AppConfig) -> EffectiveLimits:
    """Return the limits a replica of `config` gets: the tier's, overridden one by one."""
    memory_mb, cpu_millicores = _TIERS[config.tier or ResourceTier.SMALL]
    limits = config.limits
    return EffectiveLimits(
        memory_mb=limits.memory_mb or memory_mb,
        cpu_millicores=limits.cpu_millicores or cpu_millicores,
        timeout_secs=limits.timeout_secs or DEFAULT_TIMEOUT_SECS,
    )


def check_app_name(name: str, *, field: str = "name") -> None:
    """Refuse a name that cannot be part of one DNS label."""
    if not name:
        raise InvalidArgument("must not be empty", field=field)
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidArgument(
            "must be lowercase letters, digits, '-' or '.', starting and ending with a letter "
            f"or digit (got {name[:80]!r})",
            field=field,
        )


def host_label(ref: AppRef, port: int = DEFAULT_PORT) -> str:
    """Return the DNS label of an app's port: `<app>-<org>` or `<app>-<org>-<port>`."""
    label = f"{ref.name.replace('.', '-dot-')}-{ref.organization}"
    return label if port == DEFAULT_PORT else f"{label}-{port}"


def serving_ports(config: AppConfig | AppSummary) -> tuple[int, ...]:
    """Return the ports an app answers on, the primary first."""
    return config.ports or (DEFAULT_PORT,)


def host_labels(ref: AppRef, config: AppConfig | AppSummary) -> tuple[str, ...]:
    """Return one DNS label a port, in the order of the ports; refuses a label over 63 octets."""
    labels = tuple([host_label(ref, port) for port in serving_ports(config)])
    for label in labels:
        if len(label) > MAX_LABEL:
            raise InvalidArgument(
                f"<app>-<org>-<port> must be at most {MAX_LABEL} octets, {label!r} has "
                f"{len(label)}",
                field="name",
            )
    return labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReplica:
    """A replica of an app as the controllers last saw it; `state` is a ReplicaState's value."""

    id: str
    version: int
    state: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AppStatus:
    """What runs of an app, as last seen; the error is that of the newest failed start, if any."""

    desired_replicas: int = 0
    replicas: tuple[ObservedReplica, ...] = ()
    error: str = ""
    error_reason: str = ""
