"""The deployment controller over a real Postgres: publish, wake, try, delete, restart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.compute import ACME
from tests.support.deployments import HELLO, SETTINGS, Rig, now, rigged, until

from ignite.domain.apps import AppRef, DeploymentState, Scaling
from ignite.domain.versions import VersionStatus


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url) as rig:
        yield rig


# -- publish --


async def test_a_published_version_serves_once_a_replica_is_ready(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    assert rig.route() is None
    assert (await rig.app()).active_version == 0
    rig.backend.make_ready(1)
    await rig.until_active(1)
    await until(lambda: rig.route() is not None)
    route = rig.route()
    assert route is not None
    assert (route.version, len(route.replicas)) == (1, 1)
    app = await rig.until_settled()
    assert app.state is DeploymentState.DEPLOYED
    assert (await rig.version(1)).status is VersionStatus.ACTIVE


async def test_a_publish_waits_for_its_compile(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.drafts.publish(HELLO)
    await until(lambda: _state_is(rig, DeploymentState.COMPILING))
    assert not rig.backend.has(1)
    await rig.end_build()
    await rig.until_active(1)


async def test_a_failed_compile_fails_the_version_with_its_reason(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.drafts.publish(HELLO)
    await rig.end_build(error="no module named x", reason="CompileFailed")
    app = await rig.until_settled()
    assert (app.state, app.error_reason) == (DeploymentState.FAILED, "CompileFailed")
    assert (await rig.version(1)).status is VersionStatus.FAILED


async def test_the_old_version_gives_way_in_one_step(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    board = rig.controller.board
    steps = board.watch("gw", 0)
    first = await anext(steps)
    owners = {route.key: route for route in first.upserts}
    await rig.publish(b"two")
    async with asyncio.timeout(10):
        while not any(r.version == 2 and r.is_active for r in owners.values()):
            step = await anext(steps)
            for key in step.removed:
                owners.pop(key, None)
            owners.update({route.key: route for route in step.upserts})
            warm = [r for r in owners.values() if r.hostnames and r.replicas]
            assert len(warm) == 1, "a host name leads to one warm version at every step"
    await steps.aclose()
    await until(lambda: not rig.backend.has(1))
    assert {route.version for route in rig.routes()} == {2}
    assert (await rig.version(1)).status is VersionStatus.SUPERSEDED


async def test_a_version_that_cannot_start_fails_and_the_old_one_serves_on(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    rig.backend.manual = {2}
    await rig.publish(b"two")
    await until(lambda: rig.backend.has(2))
    rig.backend.fail(2, "ImportFailed", "no module named x")
    app = await rig.until_settled()
    assert (app.active_version, app.error_reason) == (1, "ImportFailed")
    assert app.state is DeploymentState.DEPLOYED
    failed = await rig.version(2)
    assert (failed.status, failed.error_reason) == (VersionStatus.FAILED, "ImportFailed")
    await until(lambda: not rig.backend.has(2))
    assert {route.version for route in rig.routes()} == {1}


async def test_the_next_good_publish_clears_the_error(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    rig.backend.fail(1, "ImportFailed", "no module named x")
    assert (await rig.until_settled()).state is DeploymentState.FAILED
    await rig.live(b"two")
    app = await rig.until_settled()
    assert (app.state, app.error, app.error_reason) == (DeploymentState.DEPLOYED, "", "")


async def test_a_publish_during_a_publish_wins(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    await rig.publish(b"two")
    await rig.until_active(2)
    await until(lambda: not rig.backend.has(1))
    first = await rig.version(1)
    assert (first.status, first.error_reason) == (VersionStatus.FAILED, "Superseded")


async def test_a_version_that_never_gets_ready_fails_in_time(database_url: str) -> None:
    hasty = replace(SETTINGS, rollout_timeout=timedelta(seconds=0.5))
    async with rigged(database_url, hasty) as rig:
        await rig.create()
        rig.backend.manual = {1}
        await rig.publish(b"one")
        app = await rig.until_settled()
        assert (app.active_version, app.error_reason) == (0, "RolloutTimeout")
        await until(lambda: not rig.backend.has(1))


async def test_a_new_version_takes_over_with_as_many_replicas(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.configure(scaling=Scaling(reserved_capacity=3))
    await until(lambda: rig.backend.ready(1) == 3)
    rig.backend.manual = {2}
    await rig.publish(b"two")
    await until(lambda: rig.backend.asked(2) == 3)
    assert rig.backend.ready(1) == 3
    rig.backend.make_ready(2)
    await rig.until_active(2)
    assert rig.backend.ready(2) == 3
    await until(lambda: not rig.backend.has(1))


# -- roll back --


async def test_a_rollback_serves_the_old_code_again(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.live(b"two")
    await rig.versions.roll_back(HELLO, 1)
    await rig.until_active(1)
    await until(lambda: not rig.backend.has(2))
    assert (await rig.version(2)).status is VersionStatus.SUPERSEDED


async def test_a_rollback_that_cannot_start_leaves_both_versions_whole(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.live(b"two")
    rig.backend.manual = {1}
    await until(lambda: not rig.backend.has(1))
    await rig.versions.roll_back(HELLO, 1)
    await until(lambda: rig.backend.has(1))
    rig.backend.fail(1, "ImportFailed", "no module named x")
    app = await rig.until_settled()
    assert (app.active_version, app.error_reason) == (2, "ImportFailed")
    assert (await rig.version(1)).status is VersionStatus.SUPERSEDED
    rig.backend.manual = set()
    await rig.versions.roll_back(HELLO, 1)
    await rig.until_active(1)


# -- wake and scale --


async def test_an_app_sleeps_when_idle_and_wakes_once_however_many_ask(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    rig.demand(1, in_flight=0)
    await until(lambda: rig.backend.ready(1) == 0)
    await until(lambda: _state_is(rig, DeploymentState.COLD))
    route = rig.route()
    assert route is not None
    assert route.replicas == ()
    before = sum(rig.backend.started.values())
    answers = [await rig.controller.deployments.wake(HELLO, None) for _ in range(20)]
    assert all(answer.ok and answer.key == route.key for answer in answers)
    await until(lambda: _is_warm(rig))
    assert sum(rig.backend.started.values()) == before + 1


async def test_a_request_under_way_keeps_the_app_awake(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    for _ in range(20):
        rig.demand(1, in_flight=1)
        await asyncio.sleep(0.1)
    assert rig.backend.ready(1) == 1


async def test_a_wake_needs_no_database(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    rig.demand(1, in_flight=0)
    await until(lambda: rig.backend.ready(1) == 0)
    await rig.until_settled()
    deployed = rig.controller.deployments._fleet.get((await rig.app()).id)
    assert deployed is not None
    # Somebody waits for the database with the app's lock in hand.
    async with deployed.lock:
        answer = await rig.controller.deployments.wake(HELLO, None)
        assert answer.ok
        assert rig.backend.ready(1) == 1
        await until(lambda: _is_warm(rig))


async def test_what_is_not_there_cannot_be_woken(rig: Rig) -> None:
    wake = rig.controller.deployments.wake
    assert (await wake(HELLO, None)).reason == "AppNotFound"
    await rig.create()
    assert (await wake(HELLO, None)).reason == "VersionNotReady"
    assert (await wake(HELLO, 0)).reason == "VersionNotReady"
    assert (await wake(HELLO, 7)).reason == "VersionNotReady"


async def test_a_start_known_to_be_impossible_is_said_at_once_and_tried_again_later(
    rig: Rig,
) -> None:
    await rig.create()
    await rig.live()
    rig.backend.fail(1, "OutOfMemory", "killed")
    await until(lambda: _failure(rig) == "OutOfMemory")
    answer = await rig.controller.deployments.wake(HELLO, None)
    assert (answer.ok, answer.reason) == (False, "OutOfMemory")
    await until(lambda: _state_is(rig, DeploymentState.FAILED))
    assert (await rig.status()).error_reason == "OutOfMemory"
    rig.backend.retry(1)
    await until(lambda: _is_warm(rig))
    assert _failure(rig) == ""
    await until(lambda: _state_is(rig, DeploymentState.DEPLOYED))
    assert (await rig.status()).error_reason == ""


async def test_reserved_replicas_stay_and_follow_the_config_at_once(rig: Rig) -> None:
    await rig.create(scaling=Scaling(reserved_capacity=2, scaledown_period_secs=1))
    await rig.live()
    await until(lambda: rig.backend.ready(1) == 2)
    for _ in range(15):
        rig.demand(1, in_flight=0)
        await asyncio.sleep(0.1)
    assert rig.backend.ready(1) == 2
    await rig.configure(scaling=Scaling(reserved_capacity=4, scaledown_period_secs=1))
    await until(lambda: rig.backend.ready(1) == 4)
    await rig.configure(
        scaling=Scaling(reserved_capacity=1, max_replicas=1, scaledown_period_secs=1)
    )
    await until(lambda: rig.backend.ready(1) == 1)
    status = await rig.status()
    assert (status.desired_replicas, len(status.replicas)) == (1, 1)


async def test_a_change_that_touches_nothing_running_restarts_nothing(rig: Rig) -> None:
    await rig.create()
    await rig.live()
    before = dict(rig.backend.started)
    await rig.configure(description="new", allow_unauthenticated=True)
    await until(lambda: (route := rig.route()) is not None and route.allow_unauthenticated)
    await rig.until_settled()
    assert rig.backend.started == before


async def test_a_changed_variable_reaches_what_runs(rig: Rig) -> None:
    await rig.create()
    await rig.live()
    await rig.configure(env={"GREETING": "goodbye"})
    await until(
        lambda: rig.backend.workloads[rig.backend.key_of(1)].spec.env == {"GREETING": "goodbye"}
    )
    assert (await rig.until_settled()).state is DeploymentState.DEPLOYED


# -- trials --


async def test_a_draft_is_tried_before_anything_is_published(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.compile()
    answer = await rig.controller.deployments.wake(HELLO, 0)
    assert answer.ok
    await until(lambda: any(r.key == answer.key and r.is_warm for r in rig.routes()))
    assert rig.route() is None
    rig.demand(0, in_flight=0)
    await until(lambda: not rig.backend.has(0))
    assert rig.routes() == []


async def test_a_trial_lives_as_long_as_it_is_used(rig: Rig) -> None:
    await rig.create(scaling=Scaling(reserved_capacity=2))
    await rig.live(b"one")
    await rig.live(b"two")
    await until(lambda: not rig.backend.has(1))
    assert (await rig.controller.deployments.wake(HELLO, 1)).ok
    for _ in range(10):
        rig.demand(1, in_flight=1)
        await asyncio.sleep(0.1)
    assert rig.backend.ready(1) == 1
    rig.demand(1, in_flight=0, idle_since=now())
    await until(lambda: not rig.backend.has(1))
    assert {route.version for route in rig.routes()} == {2}


async def test_a_version_once_on_trial_leaves_nothing_behind_when_it_is_replaced(rig: Rig) -> None:
    await rig.create(scaling=Scaling(reserved_capacity=1))
    await rig.live(b"one")
    rig.backend.manual = {2}
    await rig.publish(b"two")
    assert (await rig.controller.deployments.wake(HELLO, 2)).ok
    rig.backend.make_ready(2)
    await rig.until_active(2)
    await rig.live(b"three")
    await until(lambda: not rig.backend.has(2))
    assert {route.version for route in rig.routes()} == {3}


async def test_a_draft_saved_again_ends_the_trial_of_the_old_one(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.compile()
    first = await rig.controller.deployments.wake(HELLO, 0)
    await rig.save(b"two")
    await rig.compile()
    second = await rig.controller.deployments.wake(HELLO, 0)
    assert second.ok
    assert second.key != first.key
    await until(lambda: first.key in rig.backend.removed)
    await until(lambda: [route.key for route in rig.routes()] == [second.key])


async def test_a_trial_that_cannot_start_says_so(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.compile()
    rig.backend.manual = {0}
    answer = await rig.controller.deployments.wake(HELLO, 0)
    rig.backend.fail(0, "ImportFailed", "no module named x")
    await until(
        lambda: [r.failure_reason for r in rig.routes() if r.key == answer.key] == ["ImportFailed"]
    )
    assert (await rig.controller.deployments.wake(HELLO, 0)).reason == "ImportFailed"


async def test_many_trials_and_hints_at_once_lose_none(rig: Rig) -> None:
    await rig.create()
    for code in (b"one", b"two", b"three"):
        await rig.live(code)
    deployments = rig.controller.deployments
    app_id = (await rig.app()).id
    answers = []
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            for version in (1, 2):
                deployments._stale(app_id)
                answers.append(group.create_task(deployments.wake(HELLO, version)))
    assert all(answer.result().ok for answer in answers)
    await until(lambda: rig.backend.ready(1) == rig.backend.ready(2) == 1)
    assert (await rig.app()).active_version == 3


# -- delete --


async def test_a_deleted_app_leaves_nothing(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.live(b"two")
    await rig.controller.deployments.wake(HELLO, 1)
    await rig.apps.delete(HELLO)
    await until(lambda: not rig.backend.workloads and not rig.routes())
    assert (await rig.controller.deployments.wake(HELLO, None)).reason == "AppNotFound"


async def test_an_app_deleted_during_a_rollout_leaves_nothing(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    rig.backend.manual = {2}
    await rig.publish(b"two")
    await until(lambda: rig.backend.has(2))
    await rig.apps.delete(HELLO)
    await until(lambda: not rig.backend.workloads and not rig.routes())


async def test_an_app_made_again_under_its_old_name_shares_nothing(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    old = rig.backend.key_of(1)
    await rig.apps.delete(HELLO)
    await rig.create()
    await rig.live(b"one")
    await until(lambda: old in rig.backend.removed)
    route = rig.route()
    assert route is not None
    assert route.key != old
    answer = await rig.controller.deployments.wake(HELLO, None)
    assert (answer.ok, answer.key) == (True, route.key)


# -- restart --


async def test_a_restart_keeps_what_runs(rig: Rig) -> None:
    await rig.create(scaling=Scaling(reserved_capacity=2))
    await rig.live()
    await until(lambda: rig.backend.ready(1) == 2)
    await rig.until_settled()
    before = dict(rig.backend.started)
    await rig.restart()
    route = rig.route()
    assert route is not None
    assert len(route.replicas) == 2
    await asyncio.sleep(0.3)
    assert rig.backend.started == before
    assert rig.backend.removed == []


async def test_a_restart_wakes_nothing_that_sleeps(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    rig.demand(1, in_flight=0)
    await until(lambda: _state_is(rig, DeploymentState.COLD))
    await rig.restart()
    rig.demand(1, in_flight=0)
    await asyncio.sleep(0.3)
    assert rig.backend.ready(1) == 0
    assert rig.route() is not None


async def test_reserved_replicas_that_went_during_a_restart_come_back(rig: Rig) -> None:
    await rig.create(scaling=Scaling(reserved_capacity=2))
    await rig.live()
    await rig.stop()
    rig.backend.workloads.clear()
    await rig.start()
    await until(lambda: rig.backend.ready(1) == 2)


async def test_a_restart_says_of_an_app_that_it_sleeps_by_now(rig: Rig) -> None:
    await rig.create()
    await rig.live()
    await rig.until_settled()
    await rig.stop()
    rig.backend.workloads.clear()
    await rig.start()
    await until(lambda: _state_is(rig, DeploymentState.COLD))
    assert (await rig.status()).replicas == ()


async def test_a_restart_goes_on_with_a_rollout(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    await rig.restart()
    rig.backend.make_ready(1)
    await rig.until_active(1)
    assert sum(rig.backend.started.values()) == 1


async def test_a_restart_ends_trials_and_what_nobody_owns(rig: Rig) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.live(b"two")
    await rig.controller.deployments.wake(HELLO, 1)
    await rig.stop()
    await rig.start()
    await until(lambda: not rig.backend.has(1))
    assert rig.backend.ready(2) == 1


async def test_what_was_deleted_while_the_controller_was_away_is_ended(rig: Rig) -> None:
    await rig.create()
    await rig.live()
    await rig.stop()
    await rig.apps.delete(HELLO)
    await rig.start()
    await until(lambda: not rig.backend.workloads)
    assert rig.routes() == []


async def test_gateways_are_told_nothing_before_everything_is_known(rig: Rig) -> None:
    await rig.create()
    await rig.live()
    await rig.stop()
    board = rig.controller.board.__class__()
    watching = board.watch("gw", 0)
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.05)
    assert not first.done()
    board.open()
    assert (await first).is_snapshot
    await watching.aclose()
    await rig.start()


# -- races --


async def test_a_target_chosen_while_the_old_one_gets_ready_is_not_overwritten(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    async with rig.database.transaction() as tx:
        # The API holds the row while the first version becomes ready.
        app = await tx.apps.get(HELLO, lock=True)
        rig.backend.make_ready(1)
        await asyncio.sleep(0.2)
        draft = await tx.versions.get(app.id, 0)
        assert draft is not None
        number = await tx.apps.take_number(app)
        await tx.versions.publish(draft, number, app.config, VersionStatus.DRAFT)
        await tx.apps.set_target(app, number, app.state)
        await tx.notify("ignite_apps", str(app.id))
    await rig.until_active(2)
    assert (await rig.version(1)).status is not VersionStatus.ACTIVE
    await until(lambda: not rig.backend.has(1))


async def test_a_record_of_an_older_generation_is_not_written(rig: Rig) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    rig.backend.fail(1, "ImportFailed", "no module named x")
    assert (await rig.until_settled()).error_reason == "ImportFailed"
    # The next publish clears the error; what runs meanwhile must not bring it back.
    await rig.save(b"two")
    await rig.drafts.publish(HELLO)
    deployments = rig.controller.deployments
    for _ in range(5):
        deployments._loop.hint((await rig.app()).id)
        await asyncio.sleep(0.02)
        assert (await rig.app()).error_reason == ""


async def test_what_runs_is_not_recorded_over_a_newer_generation(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.compile()
    await rig.until_settled()
    async with rig.database.transaction() as tx:
        # The API holds the row while there is something to record of the older generation.
        app = await tx.apps.get(HELLO, lock=True)
        assert (await rig.controller.deployments.wake(HELLO, 0)).ok
        await asyncio.sleep(0.3)
        draft = await tx.versions.get(app.id, 0)
        assert draft is not None
        number = await tx.apps.take_number(app)
        compiling = replace(draft, artifact="", status=VersionStatus.COMPILING)
        await tx.versions.publish(compiling, number, app.config, VersionStatus.COMPILING)
        await tx.apps.set_target(app, number, DeploymentState.COMPILING)
        # No hint: the next round is the poll's.
    for _ in range(10):
        assert (await rig.app()).state is DeploymentState.COMPILING
        await asyncio.sleep(0.05)


async def test_many_apps_come_up_at_once(rig: Rig) -> None:
    refs = [AppRef(organization=ACME.name, name=f"app-{number}") for number in range(20)]
    for ref in refs:
        await rig.create(ref)
        await rig.publish(ref.name.encode(), ref)
    for ref in refs:
        await rig.until_active(1, ref)
    assert len([route for route in rig.routes() if route.is_warm]) == 20


async def _state_is(rig: Rig, state: DeploymentState) -> bool:
    return (await rig.app()).state is state


def _is_warm(rig: Rig) -> bool:
    route = rig.route()
    return route is not None and route.is_warm


def _failure(rig: Rig) -> str:
    route = rig.route()
    return route.failure_reason if route is not None else ""
