"""From demand to a number of replicas, for backends that do not scale themselves."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ignite.domain.scaling import Demand, ScalePolicy, desired_replicas, stabilised

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReport:
    """What one gateway saw of one Workload; `idle_since` None means never idle yet."""

    requests_per_second: float
    in_flight: int
    idle_since: datetime | None


@dataclass(slots=True)
class _Tracked:
    policy: ScalePolicy
    woken_at: datetime
    history: list[tuple[datetime, int]] = field(default_factory=list)
    desired: int = 0


class Autoscaler:
    """Knows the demand of every Workload that has any, and decides each interval.

    While no gateway reports, nothing is scaled in: silence is not idleness.
    """

    name = "autoscaler"

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        interval_secs: float,
        report_ttl_secs: float = 5.0,
    ) -> None:
        self._now = now
        self._interval_secs = interval_secs
        self._report_ttl_secs = report_ttl_secs
        self._tracked: dict[str, _Tracked] = {}
        self._reports: dict[str, tuple[datetime, Mapping[str, DemandReport]]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener(key)` whenever a decision changes."""
        self._listeners.append(listener)

    def track(self, key: str, policy: ScalePolicy, *, running: int = 0) -> None:
        """Start or go on deciding for a Workload; `running` replicas were found after a restart."""
        tracked = self._tracked.get(key)
        if tracked is None:
            tracked = _Tracked(policy=policy, woken_at=self._now())
            # Found running: they stay for one idle period, as if woken now.
            tracked.desired = max(min(running, policy.ceiling), policy.floor)
            if running:
                tracked.history.append((self._now(), tracked.desired))
            self._tracked[key] = tracked
        elif tracked.policy != policy:
            tracked.policy = policy
            self._decide(key, tracked)

    def forget(self, key: str) -> None:
        """Stop deciding for a Workload."""
        self._tracked.pop(key, None)

    def wake(self, key: str) -> None:
        """Somebody waits for a replica of this Workload now."""
        if (tracked := self._tracked.get(key)) is not None:
            tracked.woken_at = self._now()
            self._decide(key, tracked)

    def desired(self, key: str) -> int:
        """Return the last decision; 0 for a Workload that is not tracked."""
        tracked = self._tracked.get(key)
        return tracked.desired if tracked else 0

    def report(self, gateway_id: str, demands: Mapping[str, DemandReport]) -> None:
        """Take a gateway's view of all its demand; what is missing has none."""
        self._reports[gateway_id] = (self._now(), demands)

    async def run(self, ready: Callable[[], None]) -> None:
        """Decide each interval until cancelled."""
        ready()
        while True:
            await asyncio.sleep(self._interval_secs)
            for key, tracked in list(self._tracked.items()):
                if tracked.desired or self._has_demand(key) or not tracked.history:
                    self._decide(key, tracked)

    def _fresh(self) -> Sequence[Mapping[str, DemandReport]]:
        now = self._now()
        stale = [
            name
            for name, (at, _) in self._reports.items()
            if (now - at).total_seconds() > self._report_ttl_secs
        ]
        for name in stale:
            del self._reports[name]
        return [demands for _, demands in self._reports.values()]

    def _has_demand(self, key: str) -> bool:
        return any(key in demands for _, demands in self._reports.values())

    def _decide(self, key: str, tracked: _Tracked) -> None:
        now = self._now()
        fresh = self._fresh()
        seen = [demands[key] for demands in fresh if key in demands]
        idle = [r.idle_since for r in seen if r.idle_since is not None]
        demand = Demand(
            requests_per_second=sum(r.requests_per_second for r in seen),
            in_flight=sum(r.in_flight for r in seen),
            idle_since=max([tracked.woken_at, *idle]),
        )
        wish = desired_replicas(tracked.policy, demand, now)
        if not fresh:
            wish = max(wish, tracked.desired)
        tracked.history.append((now, wish))
        decided = stabilised(tracked.history, tracked.policy, now)
        if decided != tracked.desired:
            logger.info("scale", extra={"workload": key, "from": tracked.desired, "to": decided})
            tracked.desired = decided
            for listener in self._listeners:
                listener(key)
