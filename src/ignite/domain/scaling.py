"""How many replicas: a pure function of policy, demand and now (design: scaling)."""

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from ignite.domain.apps import AppConfig, ScaleMetric

DEFAULT_MAX_REPLICAS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformScaling:
    """The platform's own numbers, where an app says 0, and its bounds."""

    replica_cap: int
    threshold: int
    scaledown_period: timedelta
    scaledown_floor: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """What an app asks for, with defaults and bounds applied.

    `target` is the metric's value one replica should carry; `idle_after` is how long demand must
    have been lower before replicas go.
    """

    metric: ScaleMetric
    target: int
    floor: int
    ceiling: int
    idle_after: timedelta

    @classmethod
    def trial(cls, idle_after: timedelta) -> "ScalePolicy":
        """Return the policy of a version on trial: one replica, for as long as it is used."""
        return cls(
            metric=ScaleMetric.CONCURRENCY,
            target=1,
            floor=0,
            ceiling=1,
            idle_after=idle_after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What callers want of one Workload, over all gateways.

    `requests_per_second` is the mean over a minute, `in_flight` counts requests at replicas and
    held ones, `idle_since` is the last moment at which `in_flight` became 0, or at which the
    Workload was woken.
    """

    requests_per_second: float
    in_flight: int
    idle_since: datetime


def policy_of(config: AppConfig, platform: PlatformScaling) -> ScalePolicy:
    """Return the policy of an app."""
    wishes = config.scaling
    ceiling = max(1, min(wishes.max_replicas or DEFAULT_MAX_REPLICAS, platform.replica_cap))
    period = timedelta(seconds=wishes.scaledown_period_secs) or platform.scaledown_period
    return ScalePolicy(
        metric=wishes.scale_metric or ScaleMetric.REQUEST_RATE,
        target=wishes.scale_threshold or platform.threshold,
        floor=min(wishes.reserved_capacity, ceiling),
        ceiling=ceiling,
        idle_after=max(period, platform.scaledown_floor),
    )


def desired_replicas(policy: ScalePolicy, demand: Demand, now: datetime) -> int:
    """Return how many replicas `demand` asks for at `now`.

    A request under way keeps at least one, however long it takes; idle counts from its end.
    """
    is_concurrency = policy.metric is ScaleMetric.CONCURRENCY
    load = demand.in_flight if is_concurrency else demand.requests_per_second
    is_idle = not demand.in_flight and now - demand.idle_since >= policy.idle_after
    # Rounded: rates are sums of floats, and 10.000000000000002 is not more than 10.
    wanted = 0 if is_idle else max(1, math.ceil(round(load / policy.target, 6)))
    return min(max(wanted, policy.floor), policy.ceiling)


class Wishes:
    """The wishes of the last `idle_after`, as far as they still count: up at once, down later.

    Kept as a falling sequence, so that the first one is the largest and few are kept.
    """

    def __init__(self) -> None:
        self._wishes: deque[tuple[datetime, int]] = deque()

    def decide(self, wish: int, policy: ScalePolicy, now: datetime) -> int:
        """Take the newest wish; return the largest of the period, within the policy's bounds.

        The step to nothing has waited in `desired_replicas` already, so it is taken as it is.
        """
        if wish == 0:
            self._wishes.clear()
        while self._wishes and self._wishes[-1][1] <= wish:
            self._wishes.pop()
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - policy.idle_after:
            self._wishes.popleft()
        return min(max(self._wishes[0][1], policy.floor), policy.ceiling)
