"""What a user may set about an app: one check a field, each naming the field and its bound.

Only the fields that a call changes are checked, so that a bound an operator has lowered refuses new
values and never an unrelated change to an old app.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ignite.domain.apps import (
    AppConfig,
    ResourceLimits,
    ResourceTier,
    Scaling,
    StorageMode,
)
from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.domain.runtimes import Runtime
from ignite.domain.scaling import DEFAULT_MAX_REPLICAS

MIN_MEMORY_MB = 64
MIN_CPU_MILLICORES = 50
MAX_HEALTH_PATH = 256
MAX_SCALE_THRESHOLD = 1_000_000
MAX_SCALEDOWN_SECS = 86_400
MAX_ENV_NAME = 256

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEALTH_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")
_RESERVED = frozenset({"PORT", "HOME"})
_RESERVED_PREFIXES = ("IGNITE_", "LD_")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppBounds:
    """The largest values that this installation takes; `replica_cap` is the platform's own."""

    env_entries: int
    env_bytes: int
    description_chars: int
    schema_bytes: int
    memory_mb: int
    cpu_millicores: int
    timeout_secs: int
    replicas: int
    replica_cap: int
    scaledown_floor_secs: int
    ports: int
    concurrency: int
    labels: int
    label_chars: int
    build_args: int
    build_args_bytes: int
    archive_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """New values of some fields of an AppConfig; None leaves a field as it is."""

    description: str | None = None
    env: Mapping[str, str] | None = None
    tier: ResourceTier | None = None
    limits: ResourceLimits | None = None
    scaling: Scaling | None = None
    ports: tuple[int, ...] | None = None
    health_path: str | None = None
    max_concurrency: int | None = None
    mcp_enabled: bool | None = None
    allow_unauthenticated: bool | None = None
    input_schema: str | None = None
    output_schema: str | None = None
    storage_mode: StorageMode | None = None
    ttl_seconds: int | None = None
    tags: tuple[str, ...] | None = None
    category: tuple[str, ...] | None = None
    author: str | None = None
    input_modality: str | None = None
    output_modality: str | None = None
    runtime: Runtime | None = None

    @property
    def changed(self) -> frozenset[str]:
        """Return the names of the fields that get a value."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def apply(self, config: AppConfig) -> AppConfig:
        """Return `config` with the new values."""
        new: dict[str, Any] = {name: getattr(self, name) for name in self.changed}
        return replace(config, **new)


def check_config(config: AppConfig, bounds: AppBounds, names: Iterable[str]) -> None:
    """Refuse the first of the named fields that is out of bounds."""
    chosen = frozenset(names)
    for name, check in _CHECKS.items():
        if name in chosen:
            check(config, bounds)


def check_text(text: str, field: str, chars: int) -> None:
    """Refuse text that is too long or holds what no store keeps."""
    if len(text) > chars:
        raise InvalidArgument(f"must be at most {chars} characters, has {len(text)}", field=field)
    if "\0" in text:
        raise InvalidArgument("must not hold a NUL character", field=field)


def check_range(value: int, field: str, low: int, high: int) -> None:
    """Refuse a number outside `low` to `high`."""
    if not low <= value <= high:
        raise InvalidArgument(f"must be {low} to {high}, is {value}", field=field)


def check_variables(
    pairs: Mapping[str, str], field: str, *, entries: int, total_bytes: int
) -> None:
    """Refuse names that no shell knows, NULs, and too much of it."""
    if len(pairs) > entries:
        raise InvalidArgument(f"must be at most {entries} entries, has {len(pairs)}", field=field)
    for name, value in pairs.items():
        if len(name) > MAX_ENV_NAME or not _VARIABLE.fullmatch(name):
            raise InvalidArgument(
                f"names must be letters, digits and '_', not start with a digit, at most "
                f"{MAX_ENV_NAME} characters (got {name[:80]!r})",
                field=field,
            )
        if "\0" in value:
            raise InvalidArgument(f"{name[:80]} must not hold a NUL character", field=field)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in pairs.items())
    if size > total_bytes:
        raise InvalidArgument(
            f"names and values must be at most {total_bytes} bytes together, are {size}",
            field=field,
        )


def check_schema(text: str, field: str, bounds: AppBounds) -> None:
    """Refuse what is not the text of a JSON object; empty means none."""
    size = len(text.encode())
    if size > bounds.schema_bytes:
        raise InvalidArgument(
            f"must be at most {bounds.schema_bytes} bytes, has {size}", field=field
        )
    if not text:
        return
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("must be JSON Schema as JSON text", field=field) from error
    if not isinstance(found, dict):
        raise InvalidArgument("must be a JSON object", field=field)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _description(config: AppConfig, bounds: AppBounds) -> None:
    check_text(config.description, "description", bounds.description_chars)


def _env(config: AppConfig, bounds: AppBounds) -> None:
    check_variables(config.env, "env", entries=bounds.env_entries, total_bytes=bounds.env_bytes)
    for name in config.env:
        upper = name.upper()
        if upper in _RESERVED or upper.startswith(_RESERVED_PREFIXES):
            raise InvalidArgument(
                f"{name!r} is the platform's own: PORT, HOME, IGNITE_* and LD_* cannot be set",
                field="env",
            )


def _limits(config: AppConfig, bounds: AppBounds) -> None:
    limits = config.limits
    if limits.memory_mb is not None:
        check_range(limits.memory_mb, "limits.memory_mb", MIN_MEMORY_MB, bounds.memory_mb)
    if limits.cpu_millicores is not None:
        check_range(
            limits.cpu_millicores,
            "limits.cpu_millicores",
            MIN_CPU_MILLICORES,
            bounds.cpu_millicores,
        )
    if limits.timeout_secs is not None:
        check_range(limits.timeout_secs, "limits.timeout_secs", 1, bounds.timeout_secs)


def _scaling(config: AppConfig, bounds: AppBounds) -> None:
    scaling = config.scaling
    check_range(scaling.max_replicas, "scaling.max_replicas", 0, bounds.replicas)
    most = effective_max_replicas(scaling, bounds.replica_cap)
    if scaling.reserved_capacity > most:
        raise InvalidArgument(
            f"must be at most the {most} replicas the app may have, is {scaling.reserved_capacity}",
            field="scaling.reserved_capacity",
        )
    check_range(scaling.scale_threshold, "scaling.scale_threshold", 0, MAX_SCALE_THRESHOLD)
    period, floor = scaling.scaledown_period_secs, bounds.scaledown_floor_secs
    if period and not floor <= period <= MAX_SCALEDOWN_SECS:
        raise InvalidArgument(
            f"must be 0 (the default) or {floor} to {MAX_SCALEDOWN_SECS}, is {period}",
            field="scaling.scaledown_period_secs",
        )


def effective_max_replicas(scaling: Scaling, cap: int) -> int:
    """Return how many replicas an app may have: its own maximum, never above the platform's."""
    return min(scaling.max_replicas or DEFAULT_MAX_REPLICAS, cap)


def _ports(config: AppConfig, bounds: AppBounds) -> None:
    ports = config.ports
    if len(ports) > bounds.ports:
        raise InvalidArgument(
            f"must be at most {bounds.ports} ports, has {len(ports)}", field="ports"
        )
    for port in ports:
        check_range(port, "ports", 1, 65_535)
    if len(set(ports)) != len(ports):
        raise InvalidArgument("must not name a port twice", field="ports")


def _health_path(config: AppConfig, _bounds: AppBounds) -> None:
    path = config.health_path
    if len(path) > MAX_HEALTH_PATH:
        raise InvalidArgument(
            f"must be at most {MAX_HEALTH_PATH} characters, has {len(path)}", field="health_path"
        )
    if path and not _HEALTH_PATH.fullmatch(path):
        raise InvalidArgument(
            "must start with '/' and be visible ASCII without '?' and '#'", field="health_path"
        )


def _max_concurrency(config: AppConfig, bounds: AppBounds) -> None:
    check_range(config.max_concurrency, "max_concurrency", 0, bounds.concurrency)


def _storage(config: AppConfig, _bounds: AppBounds) -> None:
    if config.storage_mode is not StorageMode.PERSISTENT:
        raise Unimplemented(
            f"storage_mode: {config.storage_mode.name} is not built yet, apps are PERSISTENT",
            reason="StorageModeNotBuilt",
        )


def _ttl(config: AppConfig, _bounds: AppBounds) -> None:
    if config.ttl_seconds:
        raise InvalidArgument("needs storage_mode TTL", field="ttl_seconds")


def _labels(field: str, labels: tuple[str, ...], bounds: AppBounds) -> None:
    if len(labels) > bounds.labels:
        raise InvalidArgument(
            f"must be at most {bounds.labels} entries, has {len(labels)}", field=field
        )
    for label in labels:
        if not label:
            raise InvalidArgument("must not hold an empty entry", field=field)
        check_text(label, field, bounds.label_chars)


_CHECKS: Mapping[str, Callable[[AppConfig, AppBounds], None]] = {
    "description": _description,
    "env": _env,
    "limits": _limits,
    "scaling": _scaling,
    "ports": _ports,
    "health_path": _health_path,
    "max_concurrency": _max_concurrency,
    "input_schema": lambda config, bounds: check_schema(
        config.input_schema, "input_schema", bounds
    ),
    "output_schema": lambda config, bounds: check_schema(
        config.output_schema, "output_schema", bounds
    ),
    "storage_mode": _storage,
    "ttl_seconds": _ttl,
    "tags": lambda config, bounds: _labels("tags", config.tags, bounds),
    "category": lambda config, bounds: _labels("category", config.category, bounds),
    "author": lambda config, bounds: check_text(config.author, "author", bounds.label_chars),
    "input_modality": lambda config, bounds: check_text(
        config.input_modality, "input_modality", bounds.label_chars
    ),
    "output_modality": lambda config, bounds: check_text(
        config.output_modality, "output_modality", bounds.label_chars
    ),
}
ALL_FIELDS = frozenset(_CHECKS)
