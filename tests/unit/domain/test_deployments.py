"""What follows from what runs: the pure plans of deployments."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ignite.domain.apps import App, AppConfig, AppRef, DeploymentState
from ignite.domain.deployments import (
    Rollout,
    deployment_state,
    plan_rollout,
    route_of,
    workload_ref,
    workload_spec,
)
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.versions import Code, CodeKind, Version, VersionStatus
from ignite.domain.workloads import Endpoint, Replica, ReplicaState, WorkloadStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)
APP = App(
    id=7,
    ref=AppRef(organization=OrganizationName("acme"), name="hello"),
    organization_id=OrganizationId("01ACME"),
    config=AppConfig(env={"GREETING": "hello"}),
    state=DeploymentState.CREATED,
    active_version=1,
    target_version=2,
    generation=1,
    observed_generation=0,
    error="",
    error_reason="",
    created_at=NOW,
    updated_at=NOW,
)
TARGET = Version(
    app_id=7,
    number=2,
    status=VersionStatus.DRAFT,
    code=Code(
        kind=CodeKind.SDK,
        runtime=Runtime(language=Language.PYTHON),
        blob="b" * 64,
        size_bytes=3,
        is_archive=False,
        build_args={},
        hash="c" * 64,
    ),
    artifact="a" * 64,
    build_id="",
    deploy_id="",
    config=AppConfig(),
    error="",
    error_reason="",
    created_at=NOW,
    compiled_at=NOW,
)


def status(*states: ReplicaState, reason: str = "") -> WorkloadStatus:
    return WorkloadStatus(
        key="k",
        replicas=tuple(
            Replica(
                id=f"r{number}",
                workload="k",
                state=state,
                endpoint=Endpoint(unix_path="/s"),
                started_at=NOW,
            )
            for number, state in enumerate(states)
        ),
        reason=reason,
        message="why" if reason else "",
    )


READY, STARTING = ReplicaState.READY, ReplicaState.STARTING


@pytest.mark.parametrize(
    ("found", "serving", "is_late", "action"),
    [
        (status(), 0, False, Rollout.WAIT),
        (status(STARTING), 0, False, Rollout.WAIT),
        (status(READY), 0, False, Rollout.ACTIVATE),
        (status(READY), 1, False, Rollout.ACTIVATE),
        (status(READY, STARTING), 2, False, Rollout.WAIT),
        (status(READY, READY), 2, False, Rollout.ACTIVATE),
        (status(READY, STARTING), 2, True, Rollout.ACTIVATE),
        (status(READY, reason="Crashed"), 2, False, Rollout.ACTIVATE),
        (status(reason="Crashed"), 0, False, Rollout.GIVE_UP),
        (status(STARTING, reason="Crashed"), 1, False, Rollout.GIVE_UP),
        (status(STARTING), 0, True, Rollout.GIVE_UP),
        (status(ReplicaState.DRAINING), 0, False, Rollout.WAIT),
    ],
)
def test_a_target_takes_over_once_it_serves_as_well(
    found: WorkloadStatus, serving: int, is_late: bool, action: Rollout
) -> None:
    plan = plan_rollout(APP, TARGET, found, serving=serving, is_late=is_late)
    assert plan.action is action
    assert bool(plan.reason) == (action is Rollout.GIVE_UP)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    settled = replace(APP, target_version=1)
    plan = plan_rollout(settled, None, None, serving=0, is_late=True)
    assert plan.action is Rollout.SETTLED


def test_a_compile_is_waited_for_however_long() -> None:
    compiling = replace(TARGET, artifact="", status=VersionStatus.COMPILING)
    assert plan_rollout(APP, compiling, None, serving=0, is_late=True).action is Rollout.WAIT


def test_a_failed_compile_is_given_up_with_its_reason() -> None:
    failed = replace(
        TARGET,
        artifact="",
        status=VersionStatus.FAILED,
        error="no module",
        error_reason="CompileFailed",
    )
    plan = plan_rollout(APP, failed, None, serving=0, is_late=False)
    assert (plan.action, plan.reason, plan.message) == (
        Rollout.GIVE_UP,
        "CompileFailed",
        "no module",
    )


def test_a_version_that_is_gone_is_given_up() -> None:
    assert plan_rollout(APP, None, None, serving=0, is_late=False).action is Rollout.GIVE_UP


@pytest.mark.parametrize(
    ("found", "desired", "state"),
    [
        (status(READY), 1, DeploymentState.DEPLOYED),
        (status(READY), 0, DeploymentState.DEPLOYED),
        (status(READY, reason="Crashed"), 2, DeploymentState.DEPLOYED),
        (status(), 0, DeploymentState.COLD),
        (status(STARTING), 1, DeploymentState.ACTIVATING),
        (status(), 1, DeploymentState.ACTIVATING),
        (status(reason="Crashed"), 1, DeploymentState.FAILED),
    ],
)
def test_the_state_of_an_app_that_serves(
    found: WorkloadStatus, desired: int, state: DeploymentState
) -> None:
    assert deployment_state(APP, TARGET, found, desired) is state


def test_the_state_of_an_app_before_its_first_version_serves() -> None:
    first = replace(APP, active_version=0, target_version=0)
    assert deployment_state(first, None, None, 0) is DeploymentState.CREATED
    failed = replace(first, error_reason="Crashed")
    assert deployment_state(failed, None, None, 0) is DeploymentState.FAILED
    rolling = replace(first, target_version=2)
    assert deployment_state(rolling, TARGET, None, 0) is DeploymentState.PROVISIONING
    compiling = replace(TARGET, artifact="")
    assert deployment_state(rolling, compiling, None, 0) is DeploymentState.COMPILING


def test_a_start_known_to_be_impossible_is_on_the_route_only_while_nothing_serves() -> None:
    failing = route_of(APP, TARGET, status(reason="Crashed"), (), 16)
    assert (failing.failure_reason, failing.failure_message) == ("Crashed", "why")
    serving = route_of(APP, TARGET, status(READY, reason="Crashed"), (), 16)
    assert (serving.failure_reason, serving.failure_message) == ("", "")


def test_host_names_lead_to_the_active_version_alone() -> None:
    assert route_of(APP, TARGET, status(), ("h",), 16).hostnames == ()
    active = replace(APP, active_version=2)
    assert route_of(active, TARGET, status(), ("h",), 16).hostnames == ("h",)


def test_a_draft_is_never_active() -> None:
    fresh = replace(APP, active_version=0, target_version=0)
    draft = replace(TARGET, number=0)
    route = route_of(fresh, draft, status(READY), ("h",), 16)
    assert (route.is_active, route.hostnames) == (False, ())


def test_replicas_on_their_way_get_no_requests() -> None:
    route = route_of(APP, TARGET, status(STARTING, READY, ReplicaState.DRAINING), (), 16)
    assert [replica.id for replica in route.replicas] == ["r1"]


def test_the_number_of_replicas_is_no_other_config() -> None:
    one = workload_spec(APP, TARGET, replicas=1, default_concurrency=16)
    many = workload_spec(APP, TARGET, replicas=4, default_concurrency=16)
    assert one != many
    assert one.fingerprint == many.fingerprint


@pytest.mark.parametrize(
    "config",
    [
        AppConfig(env={"GREETING": "goodbye"}),
        AppConfig(env={"GREETING": "hello"}, max_concurrency=1),
        AppConfig(env={"GREETING": "hello"}, health_path="/ready"),
        AppConfig(env={"GREETING": "hello"}, ports=(8000,)),
    ],
)
def test_what_a_running_replica_cannot_take_over_is_another_config(config: AppConfig) -> None:
    before = workload_spec(APP, TARGET, replicas=1, default_concurrency=16)
    after = workload_spec(replace(APP, config=config), TARGET, replicas=1, default_concurrency=16)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    "config",
    [
        AppConfig(env={"GREETING": "hello"}, description="new"),
        AppConfig(env={"GREETING": "hello"}, allow_unauthenticated=True),
        AppConfig(env={"GREETING": "hello"}, max_concurrency=16),
    ],
)
def test_what_touches_nothing_running_is_the_same_spec(config: AppConfig) -> None:
    before = workload_spec(APP, TARGET, replicas=1, default_concurrency=16)
    after = workload_spec(replace(APP, config=config), TARGET, replicas=1, default_concurrency=16)
    assert before == after


def test_workloads_of_other_code_or_of_another_app_have_other_keys() -> None:
    keys = {
        workload_ref(APP, TARGET).key,
        workload_ref(replace(APP, id=8), TARGET).key,
        workload_ref(APP, replace(TARGET, number=3)).key,
        workload_ref(APP, replace(TARGET, artifact="d" * 64)).key,
    }
    assert len(keys) == 4


def test_a_version_runs_under_the_runtime_it_was_compiled_for() -> None:
    compiled = replace(TARGET, artifact="a" * 64, runtime_version="3.9.18")
    spec = workload_spec(APP, compiled, replicas=1, default_concurrency=16)
    assert spec.runtime.version == "3.9"
