"""What should run of one app, and what follows from what does: pure plans."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from ignite.domain.apps import (
    DEFAULT_HEALTH_PATH,
    App,
    DeploymentState,
    effective_limits,
    serving_ports,
)
from ignite.domain.routes import Route
from ignite.domain.versions import Runtime, Version, VersionStatus
from ignite.domain.workloads import WorkloadRef, WorkloadSpec, WorkloadStatus


class Rollout(Enum):
    """What to do about an app's target version."""

    SETTLED = auto()  # nothing is being rolled out
    WAIT = auto()  # its compile or its first replica is under way
    ACTIVATE = auto()  # it is ready to serve
    GIVE_UP = auto()  # it cannot


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """The decision, with the reason when it is GIVE_UP."""

    action: Rollout
    reason: str = ""
    message: str = ""


def workload_ref(app: App, version: Version) -> WorkloadRef:
    """Return the name of a version's Workload."""
    return WorkloadRef(
        app=app.ref, app_id=app.id, version=version.number, artifact=version.artifact
    )


def workload_spec(
    app: App, version: Version, *, replicas: int, default_concurrency: int
) -> WorkloadSpec:
    """Return what should run of a version: its code under the app's present config."""
    limits = effective_limits(app.config)
    return WorkloadSpec(
        ref=workload_ref(app, version),
        organization_id=app.organization_id,
        runtime=_runtime(version),
        env=app.config.env,
        memory_mb=limits.memory_mb,
        cpu_millicores=limits.cpu_millicores,
        timeout_secs=limits.timeout_secs,
        max_concurrency=app.config.max_concurrency or default_concurrency,
        health_path=app.config.health_path or DEFAULT_HEALTH_PATH,
        port=serving_ports(app.config)[0],
        replicas=replicas,
    )


def route_of(
    app: App,
    version: Version,
    status: WorkloadStatus,
    hostnames: tuple[str, ...],
    default_concurrency: int,
) -> Route:
    """Return the route of a version's Workload; hostnames lead to the active one alone."""
    is_active = version.number == app.active_version and version.number > 0
    return Route(
        key=workload_ref(app, version).key,
        app=app.ref,
        organization_id=app.organization_id,
        version=version.number,
        is_active=is_active,
        hostnames=hostnames if is_active else (),
        allow_unauthenticated=app.config.allow_unauthenticated,
        timeout_secs=effective_limits(app.config).timeout_secs,
        max_concurrency=app.config.max_concurrency or default_concurrency,
        replicas=status.ready,
        failure_reason=status.reason if not status.ready else "",
        failure_message=status.message if not status.ready else "",
    )


def plan_rollout(
    app: App,
    target: Version | None,
    status: WorkloadStatus | None,
    *,
    serving: int,
    is_late: bool,
) -> RolloutPlan:
    """Decide about the target version from its record and its Workload, which stands at `status`.

    It takes over once it has as many ready replicas as the active version, of which `serving` are
    ready; with fewer if a start of it has failed, or if it is late.
    """
    if app.target_version == app.active_version:
        return RolloutPlan(action=Rollout.SETTLED)
    if target is None:
        return RolloutPlan(
            action=Rollout.GIVE_UP, reason="VersionNotFound", message="the version is gone"
        )
    if target.status is VersionStatus.FAILED:
        return RolloutPlan(action=Rollout.GIVE_UP, reason=target.error_reason, message=target.error)
    if not target.artifact or status is None:
        return RolloutPlan(action=Rollout.WAIT)
    is_stuck = is_late or bool(status.reason)
    if status.ready and (is_stuck or len(status.ready) >= serving):
        return RolloutPlan(action=Rollout.ACTIVATE)
    if status.reason:
        return RolloutPlan(action=Rollout.GIVE_UP, reason=status.reason, message=status.message)
    if is_late:
        return RolloutPlan(
            action=Rollout.GIVE_UP,
            reason="RolloutTimeout",
            message="the version did not become ready in time",
        )
    return RolloutPlan(action=Rollout.WAIT)


def deployment_state(
    app: App, target: Version | None, status: WorkloadStatus | None, desired: int
) -> DeploymentState:
    """Return the serving posture of an app whose active Workload stands at `status`."""
    if app.active_version == 0:
        if app.target_version == 0:
            return DeploymentState.FAILED if app.error_reason else DeploymentState.CREATED
        is_compiled = target is not None and bool(target.artifact)
        return DeploymentState.PROVISIONING if is_compiled else DeploymentState.COMPILING
    if status is not None and status.ready:
        return DeploymentState.DEPLOYED
    if status is not None and status.reason:
        return DeploymentState.FAILED
    return DeploymentState.ACTIVATING if desired else DeploymentState.COLD


def _runtime(version: Version) -> Runtime:
    """Return the runtime that the artifact was compiled for."""
    asked = version.code.runtime
    if not version.runtime_version:
        return asked
    return replace(asked, version=".".join(version.runtime_version.split(".")[:2]))
