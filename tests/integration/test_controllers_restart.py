"""The deployment controller is restarted: what runs is kept, what is unwanted ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.deployments import HELLO, Rig, rigged, until

from ignite.domain.apps import DeploymentState, Scaling


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url) as rig:
        yield rig


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
    await until(lambda: rig.state_is(DeploymentState.COLD))
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
    await until(lambda: rig.state_is(DeploymentState.COLD))
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
