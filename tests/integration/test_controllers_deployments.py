"""The deployment controller over a real Postgres: publish, roll back, delete, races."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.compute import ACME
from tests.support.deployments import HELLO, SETTINGS, Rig, rigged, until

from ignite.domain.apps import AppRef, DeploymentState, ScaleMetric, Scaling
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
    await rig.until_settled()
    await until(lambda: rig.state_is(DeploymentState.DEPLOYED))
    assert (await rig.version(1)).status is VersionStatus.ACTIVE


async def test_a_publish_waits_for_its_compile(rig: Rig) -> None:
    await rig.create()
    await rig.save(b"one")
    await rig.drafts.publish(HELLO)
    await until(lambda: rig.state_is(DeploymentState.COMPILING))
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
    assert (first.status, first.error_reason) == (VersionStatus.DRAFT, "")
    # Nothing was wrong with it: it serves when it is asked for again.
    rig.backend.manual = set()
    await rig.versions.roll_back(HELLO, 1)
    await rig.until_active(1)
    await until(lambda: not rig.backend.has(2))
    assert (await rig.version(1)).status is VersionStatus.ACTIVE


async def test_a_first_version_that_was_overtaken_by_a_bad_one_serves_when_asked_for(
    rig: Rig,
) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    await rig.save(b"two")
    await rig.drafts.publish(HELLO)
    await rig.end_build(error="no", reason="CompileFailed")
    assert (await rig.until_settled()).state is DeploymentState.FAILED
    app = await rig.versions.roll_back(HELLO, 1)
    assert app.state is DeploymentState.PROVISIONING
    await until(lambda: rig.backend.has(1))
    rig.backend.make_ready(1)
    await rig.until_active(1)
    assert (await rig.until_settled()).state is DeploymentState.DEPLOYED


async def test_a_version_that_was_overtaken_while_it_compiled_serves_when_asked_for(
    rig: Rig,
) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.save(b"two")
    await rig.drafts.publish(HELLO)
    await rig.versions.roll_back(HELLO, 1)
    await rig.until_settled()
    await rig.end_build()
    assert (await rig.version(2)).status is VersionStatus.DRAFT
    assert not rig.backend.has(2)
    await rig.versions.roll_back(HELLO, 2)
    await rig.until_active(2)


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


async def test_a_new_version_under_load_is_not_scaled_in_as_it_takes_over(rig: Rig) -> None:
    await rig.create(
        scaling=Scaling(scale_metric=ScaleMetric.CONCURRENCY, scale_threshold=1, max_replicas=5)
    )
    await rig.live(b"one")
    rig.demand(1, in_flight=3)
    await until(lambda: rig.backend.ready(1) == 3)
    await rig.live(b"two")
    await until(lambda: not rig.backend.has(1))
    workload = rig.backend.workloads[rig.backend.key_of(2)]
    assert workload.history
    assert set(workload.history) == {3}


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
