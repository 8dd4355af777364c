"""How many replicas: the pure rules."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.apps import AppConfig, ScaleMetric, Scaling
from ignite.domain.scaling import (
    Demand,
    PlatformScaling,
    ScalePolicy,
    Wishes,
    desired_replicas,
    policy_of,
)

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PLATFORM = PlatformScaling(
    replica_cap=5,
    threshold=10,
    scaledown_period=timedelta(seconds=300),
    scaledown_floor=timedelta(seconds=30),
)
RATE = ScalePolicy(
    metric=ScaleMetric.REQUEST_RATE,
    target=10,
    floor=0,
    ceiling=5,
    idle_after=timedelta(seconds=300),
)
CONCURRENCY = replace(RATE, metric=ScaleMetric.CONCURRENCY)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def demand(*, rate: float = 0, in_flight: int = 0, idle_secs: float = 0) -> Demand:
    return Demand(requests_per_second=rate, in_flight=in_flight, idle_since=ago(idle_secs))


def policy(**scaling: int) -> ScalePolicy:
    return policy_of(AppConfig(scaling=Scaling(**scaling)), PLATFORM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate", "replicas"), [(0, 1), (0.1, 1), (10, 1), (10.1, 2), (40, 4), (41, 5), (1000, 5)]
)
def test_the_total_rate_is_shared_by_replicas_up_to_the_ceiling(rate: float, replicas: int) -> None:
    assert desired_replicas(RATE, demand(rate=rate), NOW) == replicas


def test_the_rate_counts_although_nothing_is_in_flight_when_looked_at() -> None:
    assert desired_replicas(RATE, demand(rate=45, in_flight=0, idle_secs=0.01), NOW) == 5


def test_a_rate_summed_from_floats_does_not_ask_for_one_more() -> None:
    assert desired_replicas(RATE, demand(rate=10.000000000000002), NOW) == 1


@pytest.mark.parametrize(("in_flight", "replicas"), [(1, 1), (10, 1), (11, 2), (500, 5)])
def test_requests_in_flight_are_shared_by_replicas(in_flight: int, replicas: int) -> None:
    assert desired_replicas(CONCURRENCY, demand(in_flight=in_flight), NOW) == replicas


@pytest.mark.parametrize("scale", [RATE, CONCURRENCY])
def test_a_request_under_way_keeps_a_replica_however_long_it_takes(scale: ScalePolicy) -> None:
    assert desired_replicas(scale, demand(in_flight=1, idle_secs=86_400), NOW) == 1


@pytest.mark.parametrize("scale", [RATE, CONCURRENCY])
def test_idle_ends_in_nothing_only_after_the_period(scale: ScalePolicy) -> None:
    assert desired_replicas(scale, demand(idle_secs=299), NOW) == 1
    assert desired_replicas(scale, demand(idle_secs=300), NOW) == 0


def test_the_tail_of_the_rate_does_not_prolong_the_idle_period() -> None:
    short = replace(RATE, idle_after=timedelta(seconds=30))
    assert desired_replicas(short, demand(rate=50, idle_secs=30), NOW) == 0


def test_reserved_replicas_stay_however_idle() -> None:
    assert desired_replicas(replace(RATE, floor=2), demand(idle_secs=86_400), NOW) == 2


def test_zeros_of_a_config_mean_the_platforms_numbers() -> None:
    assert policy() == RATE


def test_a_config_cannot_go_beyond_the_platform() -> None:
    assert policy(max_replicas=1000).ceiling == 5
    assert policy(reserved_capacity=9).floor == 5
    assert policy(scaledown_period_secs=1).idle_after == timedelta(seconds=30)


def test_reserved_capacity_stays_below_the_apps_own_ceiling() -> None:
    assert policy(max_replicas=2, reserved_capacity=4).floor == 2


def test_up_is_at_once_and_down_waits_for_the_period() -> None:
    wishes = Wishes()
    assert wishes.decide(4, RATE, ago(400)) == 4
    assert wishes.decide(1, RATE, ago(200)) == 4
    assert wishes.decide(5, RATE, ago(150)) == 5
    assert wishes.decide(1, RATE, ago(0)) == 5
    assert wishes.decide(1, RATE, NOW + timedelta(seconds=151)) == 1


def test_the_step_to_nothing_has_waited_already() -> None:
    wishes = Wishes()
    wishes.decide(3, RATE, ago(10))
    assert wishes.decide(0, RATE, NOW) == 0
    assert wishes.decide(1, RATE, NOW) == 1


def test_a_lower_ceiling_has_its_effect_at_once() -> None:
    wishes = Wishes()
    wishes.decide(5, RATE, ago(1))
    assert wishes.decide(5, replace(RATE, ceiling=2), NOW) == 2


def test_a_higher_floor_has_its_effect_at_once() -> None:
    wishes = Wishes()
    wishes.decide(0, RATE, ago(1))
    assert wishes.decide(0, replace(RATE, floor=2), NOW) == 2


@given(st.lists(st.integers(1, 5), min_size=1, max_size=200), st.integers(1, 40))
def test_the_decision_is_the_largest_wish_of_the_period(given: list[int], period: int) -> None:
    scale = replace(RATE, idle_after=timedelta(seconds=period))
    wishes = Wishes()
    for second, wish in enumerate(given):
        decided = wishes.decide(wish, scale, NOW + timedelta(seconds=second))
        assert decided == max(given[max(0, second - period) : second + 1])
