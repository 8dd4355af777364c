"""What the spawner is told to run, and the checks of it: its callers are less trusted than it
is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ignite.domain.errors import InvalidArgument
from ignite.domain.versions import Runtime
from ignite.domain.workloads import Endpoint, ReplicaState

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEALTH_PATH = re.compile(r"/[\x21-\x7e]{0,255}")
_VERSION = re.compile(r"(\d+(\.\d+){0,2})?")

MAX_ENV_BYTES = 512 * 1024
MAX_COMMAND_BYTES = 64 * 1024

# These decide how a program is loaded, before it has given up what it may.
_RESERVED_PREFIXES = ("IGNITE_", "LD_", "GLIBC_", "MALLOC_")
_RESERVED = frozenset(
    {"HOME", "PATH", "GCONV_PATH", "LOCPATH", "NLSPATH", "PORT", "ENV", "BASH_ENV", "TMPDIR"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """One replica to start. Everything that the spawner needs; it asks nobody else."""

    id: str
    workload: str
    organization_name: str
    organization_id: str
    app_name: str
    version: int
    runtime: Runtime
    artifact_path: str
    env: Mapping[str, str]
    memory_mb: int
    cpu_millicores: int
    pids_max: int
    max_concurrency: int
    timeout_secs: int
    drain_grace_secs: int
    health_path: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """What there is to know of one replica; `exit_code` is negative for a signal."""

    id: str
    workload: str
    state: ReplicaState
    endpoint: Endpoint
    pid: int
    started_at: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""

    @property
    def is_ended(self) -> bool:
        """Tell whether it is gone."""
        return self.state in (ReplicaState.EXITED, ReplicaState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """One compile to run. `command` is in terms of the inside; see docs/sandbox.md."""

    id: str
    organization_id: str
    runtime: Runtime
    source_path: str
    output_path: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    timeout_secs: int
    memory_mb: int
    cpu_millicores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLine:
    """One line of a compile's output; `stream` is stdout, stderr or system."""

    at: datetime
    stream: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """How a compile ended; `reason` is "" when it succeeded."""

    exit_code: int
    duration_secs: float
    reason: str = ""
    message: str = ""
    runtime_version: str = ""


def check_replica(spec: ReplicaSpec) -> None:
    """Refuse a spec that no honest caller sends."""
    check_id(spec.id, "replica_id")
    _match(_LABEL, spec.organization_id, "organization_id")
    _match(_LABEL, spec.organization_name, "organization_name")
    _match(_LABEL, spec.app_name, "app_name")
    _match(_VERSION, spec.runtime.version, "runtime.version")
    _match(_HEALTH_PATH, spec.health_path, "health_path")
    if not 0 < len(spec.workload) <= 512:
        raise InvalidArgument("must have 1 to 512 characters", field="workload_key")
    _within(spec.memory_mb, 16, 1024 * 1024, "memory_mb")
    _within(spec.cpu_millicores, 10, 1_000_000, "cpu_millicores")
    _within(spec.pids_max, 8, 32_768, "pids_max")
    _within(spec.max_concurrency, 1, 1000, "max_concurrency")
    _within(spec.timeout_secs, 1, 86_400, "timeout_secs")
    _within(spec.drain_grace_secs, 0, 86_400, "drain_grace_secs")
    _within(spec.port, 1, 65_535, "port")
    check_env(spec.env)


def check_build(spec: BuildSpec) -> None:
    """Refuse a spec that no honest caller sends."""
    check_id(spec.id, "build_id")
    _match(_LABEL, spec.organization_id, "organization_id")
    _match(_VERSION, spec.runtime.version, "runtime.version")
    _within(spec.timeout_secs, 1, 86_400, "timeout_secs")
    _within(spec.memory_mb, 64, 1024 * 1024, "memory_mb")
    _within(spec.cpu_millicores, 10, 1_000_000, "cpu_millicores")
    if not spec.command or not spec.command[0]:
        raise InvalidArgument("must not be empty", field="command")
    _no_nul(spec.command, "command", MAX_COMMAND_BYTES)
    check_env(spec.env)


def check_id(value: str, field: str) -> str:
    """Return an id that is also a safe name of a folder; refuses anything else."""
    _match(_ID, value, field)
    return value


def check_env(env: Mapping[str, str]) -> None:
    """Refuse names that are none, NUL bytes, and more than fits on a command line."""
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise InvalidArgument(f"{name[:80]!r} is not a variable's name", field="env")
    _no_nul([f"{name}={value}" for name, value in env.items()], "env", MAX_ENV_BYTES)


def allowed_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without what the platform or the loader decides by."""
    return {
        name: value
        for name, value in env.items()
        if name not in _RESERVED and not name.startswith(_RESERVED_PREFIXES)
    }


def _match(pattern: re.Pattern[str], value: str, field: str) -> None:
    if not pattern.fullmatch(value):
        raise InvalidArgument(f"{value[:80]!r} is not allowed", field=field)


def _within(value: int, least: int, most: int, field: str) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"must be {least} to {most}, not {value}", field=field)


def _no_nul(texts: "tuple[str, ...] | list[str]", field: str, most: int) -> None:
    if any("\0" in text for text in texts):
        raise InvalidArgument("must not hold NUL bytes", field=field)
    if sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts) > most:
        raise InvalidArgument(f"must have at most {most} bytes in all", field=field)
