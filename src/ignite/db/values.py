"""Domain values to columns and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from ignite.db.connection import Row
from ignite.domain.apps import (
    KEPT_DESCRIPTION_CHARS,
    App,
    AppConfig,
    AppRef,
    AppSummary,
    DeploymentState,
    ResourceLimits,
    ResourceTier,
    ScaleMetric,
    Scaling,
    StorageMode,
)
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import (
    Code,
    CodeKind,
    Language,
    Runtime,
    ShownApp,
    ShownVersion,
    Version,
    VersionStatus,
)

Json = Any
Columns = Row | Mapping[str, Any]


def config_to_json(config: AppConfig) -> dict[str, Json]:
    """Return the JSON form of a config. Every field is written: a record explains itself."""
    return {
        "description": config.description,
        "env": dict(config.env),
        "tier": int(config.tier),
        "limits": {
            "memory_mb": config.limits.memory_mb,
            "cpu_millicores": config.limits.cpu_millicores,
            "timeout_secs": config.limits.timeout_secs,
        },
        "scaling": {
            "max_replicas": config.scaling.max_replicas,
            "reserved_capacity": config.scaling.reserved_capacity,
            "scale_threshold": config.scaling.scale_threshold,
            "scale_metric": int(config.scaling.scale_metric),
            "scaledown_period_secs": config.scaling.scaledown_period_secs,
        },
        "ports": list(config.ports),
        "health_path": config.health_path,
        "max_concurrency": config.max_concurrency,
        "mcp_enabled": config.mcp_enabled,
        "allow_unauthenticated": config.allow_unauthenticated,
        "input_schema": config.input_schema,
        "output_schema": config.output_schema,
        "storage_mode": int(config.storage_mode),
        "ttl_seconds": config.ttl_seconds,
        "tags": list(config.tags),
        "category": list(config.category),
        "author": config.author,
        "input_modality": config.input_modality,
        "output_modality": config.output_modality,
        "runtime": _runtime_to_json(config.runtime) if config.runtime else None,
    }


def config_from_json(found: Mapping[str, Json]) -> AppConfig:
    """Return the config of a JSON form.

    A field that an older release did not write has its default; one of a newer release is left out.
    """
    plain = _known(AppConfig, found)
    scaling = _known(Scaling, plain.pop("scaling", {}))
    if "scale_metric" in scaling:
        scaling["scale_metric"] = ScaleMetric(scaling["scale_metric"])
    runtime = plain.pop("runtime", None)
    return AppConfig(
        runtime=_runtime_from_json(runtime) if runtime else None,
        limits=ResourceLimits(**_known(ResourceLimits, plain.pop("limits", {}))),
        scaling=Scaling(**scaling),
        tier=ResourceTier(plain.pop("tier", ResourceTier.SMALL)),
        storage_mode=StorageMode(plain.pop("storage_mode", StorageMode.PERSISTENT)),
        ports=tuple(plain.pop("ports", ())),
        tags=tuple(plain.pop("tags", ())),
        category=tuple(plain.pop("category", ())),
        **plain,
    )


_FIELDS = {
    kind: frozenset(field.name for field in fields(kind))
    for kind in (AppConfig, ResourceLimits, Scaling)
}


def _known(
    kind: type[AppConfig | ResourceLimits | Scaling], found: Mapping[str, Json]
) -> dict[str, Json]:
    names = _FIELDS[kind]
    return {name: value for name, value in found.items() if name in names}


def _runtime_to_json(runtime: Runtime) -> dict[str, Json]:
    return {
        "language": runtime.language.value,
        "version": runtime.version,
        "target": runtime.target,
    }


def _runtime_from_json(found: Mapping[str, Json]) -> Runtime:
    return Runtime(
        language=Language(found["language"]), version=found["version"], target=found["target"]
    )


def code_to_columns(code: Code) -> dict[str, Json]:
    """Return the columns that versions and builds share."""
    return {
        "code_kind": int(code.kind),
        "runtime": _runtime_to_json(code.runtime),
        "blob": code.blob,
        "size_bytes": code.size_bytes,
        "is_archive": code.is_archive,
        "build_args": dict(code.build_args),
        "code_hash": code.hash,
    }


def code_of(row: Columns) -> Code:
    """Return the code of a row of versions or builds."""
    return Code(
        kind=CodeKind(row["code_kind"]),
        runtime=_runtime_from_json(row["runtime"]),
        blob=row["blob"],
        size_bytes=row["size_bytes"],
        is_archive=row["is_archive"],
        build_args=row["build_args"],
        hash=row["code_hash"],
    )


# What is kept of rows has a bound in bytes: those with more text than this are read every time.
_KEPT_CHARS = 4096
_KEPT_PAGE_CHARS = 64 * 1024


def app_of(row: Columns) -> App:
    """Return the app of a row."""
    return App(
        id=row["id"],
        ref=AppRef(organization=OrganizationName(row["organization"]), name=row["name"]),
        organization_id=OrganizationId(row["organization_id"]),
        config=config_from_json(row["config"]),
        state=DeploymentState(row["state"]),
        active_version=row["active_version"],
        target_version=row["target_version"],
        generation=row["generation"],
        observed_generation=row["observed_generation"],
        error=row["error"],
        error_reason=row["error_reason"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def summary_of(row: Row) -> AppSummary:
    """Return the summary of a row of the columns that lists show.

    Equal rows give the same one, unless they are large. What an older release did not write has its
    default.
    """
    is_large = len(row["description"] or "") > KEPT_DESCRIPTION_CHARS
    return _new_summary_of(row) if is_large else _kept_summary_of(row)


def _new_summary_of(row: Row) -> AppSummary:
    return AppSummary(
        ref=AppRef(organization=row["organization"], name=row["name"]),
        description=row["description"] or "",
        tier=ResourceTier(row["tier"] or ResourceTier.SMALL),
        ports=tuple(json.loads(row["ports"] or "[]")),
        state=DeploymentState(row["state"]),
        active_version=row["active_version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


_kept_summary_of = lru_cache(maxsize=2048)(_new_summary_of)


class SummaryPage:
    """What the rows of one page were when it was last read, and the summaries made of them.

    To compare a page with itself costs a third of looking up each of its rows.
    """

    __slots__ = ("_made", "_rows")

    def __init__(self) -> None:
        self._rows: Sequence[Row] = ()
        self._made: tuple[AppSummary, ...] = ()

    def of(self, rows: Sequence[Row]) -> tuple[AppSummary, ...]:
        """Return the summaries of `rows`: the same as before while those are equal."""
        if rows == self._rows:
            return self._made
        made = tuple(map(summary_of, rows))
        is_large = sum(len(app.description) for app in made) > _KEPT_PAGE_CHARS
        self._rows, self._made = ((), ()) if is_large else (rows, made)
        return made


@lru_cache(maxsize=64)
def summary_page(_organization: OrganizationName, _after: str, _limit: int) -> SummaryPage:
    """Return the place of one page; the same for the same page."""
    return SummaryPage()


_SHOWN_JSON = ("config", "runtime", "build_args")


def shown_of(row: Row) -> ShownApp:
    """Return the app of a row that has its version's columns beside its own, and JSON as text.

    Equal rows give the same one, unless they are large.
    """
    chars = len(row["config"]) + len(row["error"]) + len(row["build_args"] or "")
    return _kept_shown_of(row) if chars <= _KEPT_CHARS else _new_shown_of(row)


def _new_shown_of(row: Row) -> ShownApp:
    found = dict(row.items())
    for name in _SHOWN_JSON:
        found[name] = json.loads(found[name] or "null")
    has_version = found["code_kind"] is not None
    return ShownApp(
        app=app_of(found),
        version=ShownVersion(code=code_of(found), build_id=found["build_id"])
        if has_version
        else None,
    )


_kept_shown_of = lru_cache(maxsize=1024)(_new_shown_of)


def version_of(row: Row) -> Version:
    """Return the version of a row."""
    return Version(
        app_id=row["app_id"],
        number=row["number"],
        status=VersionStatus(row["status"]),
        code=code_of(row),
        artifact=row["artifact"],
        runtime_version=row["runtime_version"],
        build_id=row["build_id"],
        deploy_id=row["deploy_id"],
        config=config_from_json(row["config"]),
        error=row["error"],
        error_reason=row["error_reason"],
        created_at=row["created_at"],
        compiled_at=row["compiled_at"],
    )


def build_of(row: Row) -> Build:
    """Return the build of a row."""
    return Build(
        id=row["id"],
        deploy_id=row["deploy_id"],
        app_id=row["app_id"],
        organization=OrganizationName(row["organization"]),
        organization_id=OrganizationId(row["organization_id"]),
        app_name=row["app_name"],
        code=code_of(row),
        state=BuildState(row["state"]),
        artifact=row["artifact"],
        error=row["error"],
        error_reason=row["error_reason"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
    )


def line_of(row: Row) -> BuildLine:
    """Return the line of a row of build_lines."""
    return BuildLine(
        number=row["number"], at=row["at"], stream=row["stream"], message=row["message"]
    )
