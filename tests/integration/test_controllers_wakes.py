"""Waking, scaling and trying versions, over a real Postgres."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.deployments import HELLO, Rig, now, rigged, until

from ignite.controllers import fleet, records
from ignite.db.database import Transaction
from ignite.db.status import AppStatusStore
from ignite.domain.apps import App, AppStatus, DeploymentState, Scaling
from ignite.domain.versions import Version


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url) as rig:
        yield rig


# -- wake and scale --


async def test_an_app_sleeps_when_idle_and_wakes_once_however_many_ask(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    rig.demand(1, in_flight=0)
    await until(lambda: rig.backend.ready(1) == 0)
    await until(lambda: rig.state_is(DeploymentState.COLD))
    route = rig.route()
    assert route is not None
    assert route.replicas == ()
    before = sum(rig.backend.started.values())
    answers = [await rig.controller.deployments.wake(HELLO, None) for _ in range(20)]
    assert all(answer.ok and answer.key == route.key for answer in answers)
    await until(lambda: rig.is_warm())
    assert sum(rig.backend.started.values()) == before + 1


async def asleep(rig: Rig) -> None:
    """Let the app's idle period end, and what is written of it be told."""
    rig.demand(1, in_flight=0)
    await until(lambda: rig.backend.ready(1) == 0)
    await until(lambda: rig.state_is(DeploymentState.COLD))


async def test_a_cold_start_is_written_once_when_it_is_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    await asleep(rig)
    written: list[AppStatus] = []
    record = AppStatusStore.record

    async def noted(
        store: AppStatusStore, app_id: int, generation: int, state: DeploymentState, seen: AppStatus
    ) -> bool:
        written.append(seen)
        return await record(store, app_id, generation, state, seen)

    monkeypatch.setattr(AppStatusStore, "record", noted)
    # As long as it takes, it is over before it has to be told.
    monkeypatch.setattr(records, "_PASSING_SECS", 3600.0)
    rig.backend.manual = {1}
    rig.demand(1, in_flight=1)
    assert (await rig.controller.deployments.wake(HELLO, None)).ok
    rig.backend.make_ready(1)
    await until(lambda: rig.state_is(DeploymentState.DEPLOYED))
    assert [[replica.state for replica in seen.replicas] for seen in written] == [["ready"]]


async def test_a_start_that_lasts_is_told(rig: Rig) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    await asleep(rig)
    rig.backend.manual = {1}
    rig.demand(1, in_flight=1)
    assert (await rig.controller.deployments.wake(HELLO, None)).ok
    await until(lambda: rig.state_is(DeploymentState.ACTIVATING))
    status = await rig.status()
    assert [replica.state for replica in status.replicas] == ["starting"]
    rig.backend.make_ready(1)
    await until(lambda: rig.state_is(DeploymentState.DEPLOYED))


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
        await until(lambda: rig.is_warm())


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
    await until(lambda: rig.failure() == "OutOfMemory")
    answer = await rig.controller.deployments.wake(HELLO, None)
    assert (answer.ok, answer.reason) == (False, "OutOfMemory")
    await until(lambda: rig.state_is(DeploymentState.FAILED))
    assert (await rig.status()).error_reason == "OutOfMemory"
    rig.backend.retry(1)
    await until(lambda: rig.is_warm())
    assert rig.failure() == ""
    await until(lambda: rig.state_is(DeploymentState.DEPLOYED))
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

    async def is_recorded() -> bool:
        status = await rig.status()
        return (status.desired_replicas, len(status.replicas)) == (1, 1)

    await until(is_recorded)


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


async def test_a_trial_begun_while_the_app_is_being_read_is_not_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create()
    await rig.live(b"one")
    await rig.live(b"two")
    await until(lambda: not rig.backend.has(1))
    read, gate = asyncio.Event(), asyncio.Event()
    versions = fleet._versions

    async def slow(tx: Transaction, app: App, trials: set[int]) -> tuple[Version, ...]:
        found = await versions(tx, app, set(trials))
        read.set()
        await gate.wait()
        return found

    monkeypatch.setattr(fleet, "_versions", slow)
    deployments = rig.controller.deployments
    deployments._stale((await rig.app()).id)
    await read.wait()
    waking = asyncio.ensure_future(deployments.wake(HELLO, 1))
    await asyncio.sleep(0.2)
    gate.set()
    assert (await waking).ok
    for _ in range(10):
        await asyncio.sleep(0.02)
        assert rig.backend.ready(1) == 1
