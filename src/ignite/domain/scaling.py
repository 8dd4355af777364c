"""How many replicas: a pure function of policy, demand and now (design: scaling)."""

import math
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
    if policy.metric is ScaleMetric.CONCURRENCY:
        load: float = demand.in_flight
    else:
        load = demand.requests_per_second if demand.in_flight else 0.0
    wanted = math.ceil(load / policy.target)
    if wanted == 0 and (demand.in_flight or now - demand.idle_since < policy.idle_after):
        wanted = 1
    return min(max(wanted, policy.floor), policy.ceiling)


def stabilised(history: list[tuple[datetime, int]], policy: ScalePolicy, now: datetime) -> int:
    """Return the largest wish of the last `idle_after`: up at once, down only after the period.

    `history` holds (when, wish), the newest last; older entries are dropped from it. The last step
    to zero has waited in `desired_replicas` already, so a wish of 0 is taken as it is.
    """
    horizon = now - policy.idle_after
    while len(history) > 1 and history[0][0] < horizon:
        history.pop(0)
    latest = history[-1][1]
    return latest if latest == 0 else max(wish for _, wish in history)
