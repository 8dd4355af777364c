"""The config of an app as requests bring it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ignite.domain.app_checks import ConfigChange
from ignite.domain.apps import (
    AppConfig,
    ResourceLimits,
    ResourceTier,
    ScaleMetric,
    Scaling,
    StorageMode,
)
from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.services.compute.convert.code import runtime
from ignite.services.compute.convert.common import enum_of
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

Request = pb.CreateAppRequest | pb.UpdateAppConfigRequest


def _tier(request: Request) -> ResourceTier:
    return enum_of(ResourceTier, request.resource_tier, "resource_tier", unset=ResourceTier.SMALL)


def _storage_mode(request: Request) -> StorageMode:
    return enum_of(StorageMode, request.storage_mode, "storage_mode", unset=StorageMode.PERSISTENT)


def _limits(request: Request) -> ResourceLimits:
    given = request.limits
    return ResourceLimits(
        memory_mb=given.memory_mb if given.HasField("memory_mb") else None,
        cpu_millicores=given.cpu_millicores if given.HasField("cpu_millicores") else None,
        timeout_secs=given.timeout_secs if given.HasField("timeout_secs") else None,
    )


def _scaling(request: Request) -> Scaling:
    given = request.scaling
    return Scaling(
        max_replicas=given.max_replicas,
        reserved_capacity=given.reserved_capacity,
        scale_threshold=given.scale_threshold,
        scale_metric=enum_of(
            ScaleMetric,
            given.scale_metric,
            "scaling.scale_metric",
            unset=ScaleMetric.UNSPECIFIED,
        ),
        scaledown_period_secs=given.scaledown_period_secs,
    )


_READERS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    # wire name → (field of AppConfig, how to read it)
    "description": ("description", lambda request: request.description),
    "resource_tier": ("tier", _tier),
    "limits": ("limits", _limits),
    "env": ("env", lambda request: dict(request.env)),
    "scaling": ("scaling", _scaling),
    "storage_mode": ("storage_mode", _storage_mode),
    "ttl_seconds": ("ttl_seconds", lambda request: request.ttl_seconds),
    "mcp_enabled": ("mcp_enabled", lambda request: request.mcp_enabled),
    "input_schema": ("input_schema", lambda request: request.input_schema),
    "output_schema": ("output_schema", lambda request: request.output_schema),
    "ports": ("ports", lambda request: tuple(request.ports)),
    "health_path": ("health_path", lambda request: request.health_path),
    "max_concurrency": ("max_concurrency", lambda request: request.max_concurrency),
    "allow_unauthenticated": (
        "allow_unauthenticated",
        lambda request: request.allow_unauthenticated,
    ),
    "tags": ("tags", lambda request: tuple(request.tags)),
    "category": ("category", lambda request: tuple(request.category)),
    "author": ("author", lambda request: request.author),
    "input_modality": ("input_modality", lambda request: request.input_modality),
    "output_modality": ("output_modality", lambda request: request.output_modality),
}
_AUTO_MODE = "auto_mode"


def new_config(request: pb.CreateAppRequest) -> AppConfig:
    """Return the config of a new app, defaults filled in."""
    _refuse_auto_mode(request)
    return _change(request, _READERS, runtime=runtime(request.runtime, "runtime")).apply(
        AppConfig()
    )


def config_change(request: pb.UpdateAppConfigRequest) -> ConfigChange:
    """Return what an update changes: what its mask names, else what is present.

    Raises InvalidArgument naming a path of the mask that is no field of the config.
    """
    paths = list(request.update_mask.paths)
    for path in paths:
        if path not in _READERS and path != _AUTO_MODE:
            raise InvalidArgument(_unknown_path(path), field="update_mask")
    names = frozenset(paths) if paths else _present(request)
    if _AUTO_MODE in names:
        _refuse_auto_mode(request)
    return _change(request, names & _READERS.keys())


def _unknown_path(path: str) -> str:
    whole = path.partition(".")[0]
    if whole in _READERS and whole != path:
        return f"{path[:80]!r} is part of {whole!r}, which is replaced as a whole"
    return f"{path[:80]!r} is not a field of the config"


def _present(request: pb.UpdateAppConfigRequest) -> frozenset[str]:
    # ListFields has what is set: fields with presence, and maps and lists that are not empty.
    set_fields = {descriptor.name for descriptor, _ in request.ListFields()}
    return frozenset(set_fields & (_READERS.keys() | {_AUTO_MODE}))


def _change(request: Request, names: Iterable[str], **more: Any) -> ConfigChange:
    values: dict[str, Any] = {}
    for name in names:
        field, read = _READERS[name]
        values[field] = read(request)
    return ConfigChange(**values, **more)


def _refuse_auto_mode(request: Request) -> None:
    if request.auto_mode in (common.AUTO_MODE_UNSPECIFIED, common.AUTO_MODE_DISABLED):
        return
    if request.auto_mode not in common.AutoMode.values():
        raise InvalidArgument(f"{request.auto_mode} is not a known value", field=_AUTO_MODE)
    word = common.AutoMode.Name(request.auto_mode)
    raise Unimplemented(f"auto_mode: {word} is not built yet", reason="AutoModeNotBuilt")
