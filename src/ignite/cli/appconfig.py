"""The flags of an app's configuration, and the request that makes an app so.

An update names exactly the fields that differ, because to the server an empty map and an absent
one look alike; limits and scaling are replaced whole there, so they start from what the app has.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click

from ignite.cli.flags import key_values, text_or_file
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

TIERS = ("small", "medium", "large", "xlarge")
STORAGE = ("persistent", "ephemeral", "ttl")
AUTO = ("disabled", "enabled", "tier-only", "scale-only")
METRICS = ("request-rate", "concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """As given by flag; None where nothing was, which changes nothing."""

    tier: str | None
    memory: int | None
    cpu: int | None
    timeout_secs: int | None
    storage_mode: str | None
    ttl: int | None
    max_replicas: int | None
    reserved: int | None
    scale_threshold: int | None
    scale_metric: str | None
    scaledown_period_secs: int | None
    max_concurrency: int | None
    auto_mode: str | None
    description: str | None
    mcp_enabled: bool | None
    input_schema: str | None
    output_schema: str | None
    health_path: str | None
    allow_unauthenticated: bool | None
    env: dict[str, str]
    clear_env: bool


def app_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of `AppConfig` to a command."""
    number = click.IntRange(min=0, max=2**32 - 1)
    options = [
        click.option("-t", "--tier", type=click.Choice(TIERS), help="Size of a replica."),
        click.option("--memory", type=number, help="Memory in MB; 0: the tier's."),
        click.option("--cpu", type=number, help="CPU in millicores; 0: the tier's."),
        click.option("--timeout-secs", type=number, help="Bound on one request; 0: default."),
        click.option("--storage-mode", type=click.Choice(STORAGE)),
        click.option("--ttl", type=number, help="Seconds, with --storage-mode ttl."),
        click.option("--max-replicas", type=number, help="At most so many; 0: default."),
        click.option("--reserved", type=number, help="Replicas kept warm."),
        click.option("--scale-threshold", type=number, help="Load a replica; 0: default."),
        click.option("--scale-metric", type=click.Choice(METRICS)),
        click.option("--scaledown-period-secs", type=number, help="Quiet before scaling down."),
        click.option("--max-concurrency", type=number, help="Requests at once a replica."),
        click.option("--auto-mode", type=click.Choice(AUTO)),
        click.option("--description"),
        click.option("--mcp-enabled/--no-mcp-enabled", default=None, help="Export as MCP tool."),
        click.option("--input-schema", callback=text_or_file, help="JSON Schema, or @file."),
        click.option("--output-schema", callback=text_or_file, help="JSON Schema, or @file."),
        click.option("--health-path"),
        click.option(
            "--allow-unauthenticated/--no-allow-unauthenticated",
            default=None,
            help="Let anyone call the app's address.",
        ),
        click.option(
            "--env",
            multiple=True,
            callback=key_values,
            metavar="K=V",
            help="Environment, repeatable; replaces what the app has.",
        ),
        click.option("--clear-env", is_flag=True, help="Take all environment away."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def split(values: dict[str, Any]) -> AppConfig:
    """Take the flags of `AppConfig` out of a command's arguments."""
    return AppConfig(**{field.name: values.pop(field.name) for field in fields(AppConfig)})


def create_request(organization: str, name: str, config: AppConfig) -> pb.CreateAppRequest:
    """Return the request that makes a new app with this configuration."""
    request = pb.CreateAppRequest(organization_name=organization, name=name, env=config.env)
    for field, value in _scalars(config).items():
        setattr(request, field, value)
    limits = _limits(config, common.ResourceLimits())
    if limits != common.ResourceLimits():
        request.limits.CopyFrom(limits)
    scaling = _scaling(config, common.ScalingConfig())
    if scaling != common.ScalingConfig():
        request.scaling.CopyFrom(scaling)
    return request


def update_request(
    organization: str, name: str, config: AppConfig, current: common.AppMeta
) -> pb.UpdateAppConfigRequest | None:
    """Return the request that makes `current` so, None when it is so already."""
    request = pb.UpdateAppConfigRequest(organization_name=organization, app_name=name)
    for field, value in _scalars(config).items():
        if getattr(current, field) != value:
            setattr(request, field, value)
            request.update_mask.paths.append(field)
    limits = _limits(config, current.limits)
    if limits != current.limits:
        request.limits.CopyFrom(limits)
        request.update_mask.paths.append("limits")
    scaling = _scaling(config, current.scaling)
    if scaling != current.scaling:
        request.scaling.CopyFrom(scaling)
        request.update_mask.paths.append("scaling")
    if (config.env or config.clear_env) and dict(current.env) != config.env:
        request.env.update(config.env)
        request.update_mask.paths.append("env")
    return request if request.update_mask.paths else None


def _scalars(config: AppConfig) -> dict[str, object]:
    """Return wire field → value of what was given and stands in both requests and `AppMeta`."""
    found = {
        "description": config.description,
        "resource_tier": _enum(common.ResourceTier, "RESOURCE_TIER", config.tier),
        "storage_mode": _enum(common.StorageMode, "STORAGE_MODE", config.storage_mode),
        "ttl_seconds": config.ttl,
        "mcp_enabled": config.mcp_enabled,
        "input_schema": config.input_schema,
        "output_schema": config.output_schema,
        "health_path": config.health_path,
        "max_concurrency": config.max_concurrency,
        "allow_unauthenticated": config.allow_unauthenticated,
        "auto_mode": _enum(common.AutoMode, "AUTO_MODE", config.auto_mode),
    }
    return {field: value for field, value in found.items() if value is not None}


def _limits(config: AppConfig, current: common.ResourceLimits) -> common.ResourceLimits:
    limits = common.ResourceLimits()
    limits.CopyFrom(current)
    given = {
        "memory_mb": config.memory,
        "cpu_millicores": config.cpu,
        "timeout_secs": config.timeout_secs,
    }
    for field, value in given.items():
        if value == 0:
            limits.ClearField(field)  # type: ignore[arg-type]  # the three names above
        elif value is not None:
            setattr(limits, field, value)
    return limits


def _scaling(config: AppConfig, current: common.ScalingConfig) -> common.ScalingConfig:
    scaling = common.ScalingConfig()
    scaling.CopyFrom(current)
    given = {
        "max_replicas": config.max_replicas,
        "reserved_capacity": config.reserved,
        "scale_threshold": config.scale_threshold,
        "scale_metric": _enum(common.ScaleMetric, "SCALE_METRIC", config.scale_metric),
        "scaledown_period_secs": config.scaledown_period_secs,
    }
    for field, value in given.items():
        if value is not None:
            setattr(scaling, field, value)
    return scaling


def _enum(kind: Any, prefix: str, word: str | None) -> int | None:
    if word is None:
        return None
    number: int = kind.Value(f"{prefix}_{word.upper().replace('-', '_')}")
    return number
