"""The autoscaler over reports of gateways, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.fakes.clock import loop_now

from ignite.controllers.autoscaler import Autoscaler, DemandReport
from ignite.domain.apps import ScaleMetric
from ignite.domain.scaling import ScalePolicy

KEY = "acme/hello@1#a.7"
POLICY = ScalePolicy(
    metric=ScaleMetric.CONCURRENCY,
    target=10,
    floor=0,
    ceiling=5,
    idle_after=timedelta(seconds=30),
)


@asynccontextmanager
async def deciding() -> AsyncIterator[Autoscaler]:
    autoscaler = Autoscaler(now=loop_now, interval_secs=1)
    task = asyncio.ensure_future(autoscaler.run(lambda: None))
    try:
        await asyncio.sleep(0)
        yield autoscaler
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def report(
    autoscaler: Autoscaler,
    secs: float,
    in_flight: int | None = None,
    idle_since: datetime | None = None,
    *,
    rate: float = 0,
) -> None:
    """Report once a second; `in_flight` None: a gateway that knows nothing of the key."""
    for _ in range(int(secs)):
        demands = {}
        if in_flight is not None:
            demands[KEY] = DemandReport(
                requests_per_second=rate, in_flight=in_flight, idle_since=idle_since
            )
        autoscaler.report("gw", demands)
        await asyncio.sleep(1)


async def test_a_wake_starts_one_however_often_it_is_repeated() -> None:
    async with deciding() as autoscaler:
        heard: list[str] = []
        autoscaler.on_change(heard.append)
        autoscaler.track(KEY, POLICY)
        assert autoscaler.desired(KEY) == 0
        for _ in range(100):
            autoscaler.wake(KEY)
        assert autoscaler.desired(KEY) == 1
        assert heard == [KEY]


async def test_what_is_tracked_and_not_asked_for_stays_asleep() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        await report(autoscaler, 10, in_flight=0)
        assert autoscaler.desired(KEY) == 0


async def test_idle_counts_from_the_last_zero() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.wake(KEY)
        await report(autoscaler, 600, in_flight=1)
        assert autoscaler.desired(KEY) == 1
        last_zero = loop_now()
        await report(autoscaler, 29, in_flight=0, idle_since=last_zero)
        assert autoscaler.desired(KEY) == 1
        await report(autoscaler, 3, in_flight=0, idle_since=last_zero)
        assert autoscaler.desired(KEY) == 0


async def test_an_app_that_was_idle_for_an_hour_wakes_for_a_whole_period() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.wake(KEY)
        await report(autoscaler, 2, in_flight=1)
        last_zero = loop_now()
        await report(autoscaler, 3600, in_flight=0, idle_since=last_zero)
        assert autoscaler.desired(KEY) == 0
        autoscaler.wake(KEY)
        # The gateway's last zero is still that of an hour ago.
        await report(autoscaler, 29, in_flight=0, idle_since=last_zero)
        assert autoscaler.desired(KEY) == 1
        await report(autoscaler, 3, in_flight=0, idle_since=last_zero)
        assert autoscaler.desired(KEY) == 0


@pytest.mark.parametrize("metric", [ScaleMetric.REQUEST_RATE, ScaleMetric.CONCURRENCY])
async def test_a_request_longer_than_the_window_of_the_rate_keeps_its_replica(
    metric: ScaleMetric,
) -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, replace(POLICY, metric=metric))
        autoscaler.wake(KEY)
        await report(autoscaler, 60, in_flight=1, rate=1 / 60)
        await report(autoscaler, 600, in_flight=1, rate=0)
        assert autoscaler.desired(KEY) == 1


async def test_a_burst_at_the_moment_of_scale_in_has_all_replicas_again() -> None:
    async with deciding() as autoscaler:
        heard: list[int] = []
        autoscaler.on_change(lambda key: heard.append(autoscaler.desired(key)))
        autoscaler.track(KEY, POLICY)
        await report(autoscaler, 3, in_flight=45)
        while autoscaler.desired(KEY) == 5:
            await report(autoscaler, 1, in_flight=5)
        await report(autoscaler, 2, in_flight=45)
        assert autoscaler.desired(KEY) == 5
        assert heard == [5, 1, 5]


async def test_a_burst_at_the_moment_of_scale_to_zero_has_a_whole_period() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.wake(KEY)
        last_zero = loop_now()
        while autoscaler.desired(KEY):
            await report(autoscaler, 1, in_flight=0, idle_since=last_zero)
        autoscaler.wake(KEY)
        assert autoscaler.desired(KEY) == 1
        await report(autoscaler, 2, in_flight=200)
        assert autoscaler.desired(KEY) == 5
        await report(autoscaler, 29, in_flight=0)
        assert autoscaler.desired(KEY) > 0


async def test_a_burst_on_a_cold_app_asks_for_no_more_than_its_ceiling() -> None:
    async with deciding() as autoscaler:
        heard: list[int] = []
        autoscaler.on_change(lambda key: heard.append(autoscaler.desired(key)))
        autoscaler.track(KEY, POLICY)
        for _ in range(200):
            autoscaler.wake(KEY)
        await report(autoscaler, 10, in_flight=200)
        assert heard == [1, 5]


async def test_held_requests_start_a_replica_although_the_wake_was_lost() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        await report(autoscaler, 2, in_flight=3)
        assert autoscaler.desired(KEY) == 1


async def test_silence_of_all_gateways_is_not_idleness() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.wake(KEY)
        await report(autoscaler, 5, in_flight=40)
        assert autoscaler.desired(KEY) == 4
        await asyncio.sleep(600)
        assert autoscaler.desired(KEY) == 4


async def test_a_gateway_that_comes_back_without_memory_starts_a_whole_idle_period() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.wake(KEY)
        await report(autoscaler, 60, in_flight=1)
        await report(autoscaler, 20)
        assert autoscaler.desired(KEY) == 1
        await asyncio.sleep(600)
        await report(autoscaler, 28)
        assert autoscaler.desired(KEY) == 1
        await report(autoscaler, 4)
        assert autoscaler.desired(KEY) == 0


async def test_demand_of_all_gateways_is_added() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        for gateway in ("one", "two"):
            autoscaler.report(
                gateway,
                {KEY: DemandReport(requests_per_second=0, in_flight=11, idle_since=None)},
            )
        autoscaler.decide()
        assert autoscaler.desired(KEY) == 3


async def test_many_replicas_go_only_after_the_period_of_lower_demand() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        await report(autoscaler, 3, in_flight=45)
        assert autoscaler.desired(KEY) == 5
        await report(autoscaler, 29, in_flight=5)
        assert autoscaler.desired(KEY) == 5
        await report(autoscaler, 4, in_flight=5)
        assert autoscaler.desired(KEY) == 1


async def test_found_replicas_stay_for_one_idle_period() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY, running=3)
        await report(autoscaler, 29)
        assert autoscaler.desired(KEY) == 3
        await report(autoscaler, 4)
        assert autoscaler.desired(KEY) == 0


async def test_reserved_replicas_are_wanted_from_the_start_on() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, replace(POLICY, floor=2))
        assert autoscaler.desired(KEY) == 2
        await report(autoscaler, 100)
        assert autoscaler.desired(KEY) == 2


async def test_a_change_of_bounds_has_its_effect_at_once() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        autoscaler.track(KEY, replace(POLICY, floor=2))
        assert autoscaler.desired(KEY) == 2
        await report(autoscaler, 3, in_flight=45)
        autoscaler.track(KEY, replace(POLICY, ceiling=3))
        assert autoscaler.desired(KEY) == 3


async def test_a_longer_idle_period_wakes_nothing() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, POLICY)
        await report(autoscaler, 2, in_flight=1)
        await report(autoscaler, 33, in_flight=0)
        assert autoscaler.desired(KEY) == 0
        autoscaler.track(KEY, replace(POLICY, idle_after=timedelta(hours=1)))
        await report(autoscaler, 3, in_flight=0)
        assert autoscaler.desired(KEY) == 0


async def test_what_is_forgotten_is_not_wanted() -> None:
    async with deciding() as autoscaler:
        autoscaler.track(KEY, replace(POLICY, floor=2))
        autoscaler.forget(KEY)
        autoscaler.wake(KEY)
        assert autoscaler.desired(KEY) == 0
