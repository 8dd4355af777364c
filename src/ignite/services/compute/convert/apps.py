"""Apps: their records as answers show them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import (
    KEPT_DESCRIPTION_CHARS,
    App,
    AppConfig,
    AppStatus,
    AppSummary,
    Scaling,
    effective_limits,
)
from ignite.domain.versions import CodeKind, ShownApp, ShownVersion, Version
from ignite.services.compute.convert.code import mode, runtime_message
from ignite.services.compute.convert.common import number, to_ms
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

_REPLICA_STATES = {
    "starting": common.REPLICA_STATE_STARTING,
    "ready": common.REPLICA_STATE_READY,
    "draining": common.REPLICA_STATE_DRAINING,
    "exited": common.REPLICA_STATE_EXITED,
    "failed": common.REPLICA_STATE_FAILED,
}


def created(app: App) -> pb.CreateAppResponse:
    """Return the answer of CreateApp: the limits that a replica would get."""
    effective = effective_limits(app.config)
    applied = common.ResourceLimits(
        memory_mb=effective.memory_mb, cpu_millicores=effective.cpu_millicores
    )
    if app.config.limits.timeout_secs is not None:
        applied.timeout_secs = app.config.limits.timeout_secs
    return pb.CreateAppResponse(
        app_id=app.ref.id,
        deployment_state=_state(app),
        applied_tier=number(app.config.tier),
        applied_limits=applied,
    )


class AppAnswers:
    """The answers of GetApp and ListApps as they are sent, each made once of what it shows."""

    def __init__(self, address: PublicAddress) -> None:
        self._address = address
        self._records: WeakKeyDictionary[ShownApp, bytes] = WeakKeyDictionary()
        self._entry = lru_cache(maxsize=2048)(self._new_entry)

    def record(self, shown: ShownApp) -> bytes:
        """Return the answer with one app's record, the same while `shown` is the same."""
        if (known := self._records.get(shown)) is not None:
            return known
        answer = pb.GetAppResponse(app=app_meta(shown, self._address)).SerializeToString()
        self._records[shown] = answer
        return answer

    def page(self, apps: Iterable[AppSummary], next_cursor: str) -> bytes:
        """Return the answer with a page of a list: its parts one after the other are the whole."""
        entries = [
            self._entry(app)
            if len(app.description) <= KEPT_DESCRIPTION_CHARS
            else self._new_entry(app)
            for app in apps
        ]
        return b"".join(
            (*entries, pb.ListAppsResponse(next_cursor=next_cursor).SerializeToString())
        )

    def _new_entry(self, app: AppSummary) -> bytes:
        return pb.ListAppsResponse(apps=[_summary(app, self._address)]).SerializeToString()


def app_meta(shown: ShownApp, address: PublicAddress) -> common.AppMeta:
    """Return the record of an app."""
    app, version = shown.app, shown.version
    meta = _config_meta(app.config)
    _fill_app(meta, app)
    meta.public_urls[:] = _urls(app, address)
    meta.error = app.error
    meta.last_error_reason = app.error_reason
    meta.created_at_ms = to_ms(app.created_at)
    meta.updated_at_ms = to_ms(app.updated_at)
    if version is not None:
        _fill_code(meta, version)
    elif app.config.runtime is not None:
        meta.runtime.CopyFrom(runtime_message(app.config.runtime))
    return meta


def version_meta(app: App, version: Version, address: PublicAddress) -> common.AppMeta:
    """Return the snapshot of one version: the config it was published with, its own code."""
    meta = _config_meta(version.config if version.number else app.config)
    _fill_app(meta, app)
    _fill_code(meta, version)
    if version.number and version.number == app.active_version:
        meta.public_urls[:] = _urls(app, address)
    meta.version = version.number
    meta.error = version.error
    meta.last_error_reason = version.error_reason
    meta.created_at_ms = to_ms(version.created_at)
    meta.updated_at_ms = to_ms(version.compiled_at or version.created_at)
    return meta


def _summary(app: AppSummary, address: PublicAddress) -> pb.AppSummary:
    return pb.AppSummary(
        id=app.ref.id,
        name=app.ref.name,
        description=app.description,
        resource_tier=number(app.tier),
        deployment_state=_state(app),
        active_version=app.active_version,
        created_at_ms=to_ms(app.created_at),
        updated_at_ms=to_ms(app.updated_at),
        public_urls=address.urls(app.ref, app) if app.active_version else (),
    )


def app_state(app: App, status: AppStatus) -> pb.GetAppStateResponse:
    """Return where an app stands; ready replicas are those that serve its users.

    What ails it now comes before what its last publish failed of.
    """
    replicas = [
        common.AppReplica(
            replica_id=replica.id,
            state=_REPLICA_STATES.get(replica.state, common.REPLICA_STATE_UNSPECIFIED),
            ready=replica.state == "ready",
            started_at_ms=to_ms(replica.started_at),
            version=replica.version,
        )
        for replica in status.replicas
    ]
    serving = [r for r in replicas if r.ready and r.version and r.version == app.active_version]
    return pb.GetAppStateResponse(
        deployment_state=_state(app),
        active_version=app.active_version,
        target_version=app.target_version,
        ready_replicas=len(serving),
        desired_replicas=status.desired_replicas,
        replicas=replicas,
        last_error=status.error if status.error_reason else app.error,
        last_error_reason=status.error_reason or app.error_reason,
    )


def scaling_message(scaling: Scaling) -> common.ScalingConfig:
    """Return the message of a user's scaling wishes."""
    return common.ScalingConfig(
        max_replicas=scaling.max_replicas,
        reserved_capacity=scaling.reserved_capacity,
        scale_threshold=scaling.scale_threshold,
        scale_metric=number(scaling.scale_metric),
        scaledown_period_secs=scaling.scaledown_period_secs,
    )


def _config_meta(config: AppConfig) -> common.AppMeta:
    limits = common.ResourceLimits(
        memory_mb=config.limits.memory_mb,
        cpu_millicores=config.limits.cpu_millicores,
        timeout_secs=config.limits.timeout_secs,
    )
    return common.AppMeta(
        description=config.description,
        env=config.env,
        limits=limits,
        resource_tier=number(config.tier),
        scaling=scaling_message(config.scaling),
        storage_mode=number(config.storage_mode),
        input_schema=config.input_schema,
        output_schema=config.output_schema,
        mcp_enabled=config.mcp_enabled,
        max_concurrency=config.max_concurrency,
        ports=config.ports,
        health_path=config.health_path,
        ttl_seconds=config.ttl_seconds,
        tags=config.tags,
        category=config.category,
        author=config.author,
        input_modality=config.input_modality,
        output_modality=config.output_modality,
        auto_mode=common.AUTO_MODE_DISABLED,
        allow_unauthenticated=config.allow_unauthenticated,
    )


def _fill_app(meta: common.AppMeta, app: App) -> None:
    meta.id = app.ref.id
    meta.name = app.ref.name
    meta.organization_name = app.ref.organization
    meta.deployment_state = _state(app)
    meta.active_version = app.active_version
    meta.target_version = app.target_version


def _fill_code(meta: common.AppMeta, version: Version | ShownVersion) -> None:
    meta.code_kind = number(version.code.kind)
    meta.deployment_mode = mode(version.code.kind)
    meta.code_hash = version.code.short_hash
    meta.build_id = version.build_id
    if version.code.kind is CodeKind.SDK:
        meta.runtime.CopyFrom(runtime_message(version.code.runtime))


def _urls(app: App, address: PublicAddress) -> Sequence[str]:
    return address.urls(app.ref, app.config) if app.active_version else ()


def _state(app: App | AppSummary) -> common.DeploymentState.ValueType:
    found: common.DeploymentState.ValueType = number(app.state)
    return found
