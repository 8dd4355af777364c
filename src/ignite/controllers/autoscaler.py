"""From demand to a number of replicas, for backends that do not scale themselves."""

import logging
from asyncio import sleep
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ignite.domain.scaling import Demand, ScalePolicy, Wishes, desired_replicas

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReport:
    """What one gateway saw of one Workload; `idle_since` None means never idle yet."""

    requests_per_second: float
    in_flight: int
    idle_since: datetime | None


@dataclass(slots=True, kw_only=True)
class _Tracked:
    policy: ScalePolicy
    idle_since: datetime
    desired: int = 0
    wishes: Wishes = field(default_factory=Wishes)


class Autoscaler:
    """Knows the demand of every Workload that has any, and decides each interval.

    While no gateway reports, nothing is scaled in and nothing grows idle: silence is not idleness.
    Idle counts from the last moment at which there was any demand, whoever has told of it; a
    gateway that forgets it by a restart changes nothing.
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
        self._report_ttl = timedelta(seconds=report_ttl_secs)
        self._tracked: dict[str, _Tracked] = {}
        # Those of which some replica is wanted. Thousands sleep beside them, and cost nothing.
        self._awake: set[str] = set()
        self._reports: dict[str, tuple[datetime, Mapping[str, DemandReport]]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener(key)` whenever a decision changes."""
        self._listeners.append(listener)

    def track(self, key: str, policy: ScalePolicy, *, running: int = 0) -> None:
        """Start or go on deciding for a Workload.

        `running` replicas that were found, or that its forerunner had, stay for one idle period.
        A change of policy has its effect at once.
        """
        tracked = self._tracked.get(key)
        if tracked is None:
            now = self._now()
            tracked = _Tracked(policy=policy, idle_since=now)
            self._tracked[key] = tracked
            self._keep(key, tracked, tracked.wishes.decide(running, policy, now))
        elif tracked.policy != policy:
            tracked.policy = policy
            self._decide(key, tracked)

    def is_tracked(self, key: str) -> bool:
        """Tell whether decisions are made for a Workload."""
        return key in self._tracked

    def forget(self, key: str) -> None:
        """Stop deciding for a Workload."""
        self._tracked.pop(key, None)
        self._awake.discard(key)

    def wake(self, key: str) -> None:
        """Somebody waits for a replica of this Workload now."""
        if (tracked := self._tracked.get(key)) is not None:
            tracked.idle_since = self._now()
            self._decide(key, tracked, is_woken=True)

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
            await sleep(self._interval_secs)
            self.decide()

    def decide(self) -> None:
        """Decide once about every Workload that runs or is asked for."""
        self._drop_stale_reports()
        asked_for = {key for _, demands in self._reports.values() for key in demands}
        for key in self._awake | asked_for:
            if (tracked := self._tracked.get(key)) is not None:
                self._decide(key, tracked)

    def _drop_stale_reports(self) -> None:
        oldest = self._now() - self._report_ttl
        for name, (at, _) in list(self._reports.items()):
            if at < oldest:
                del self._reports[name]

    def _decide(self, key: str, tracked: _Tracked, *, is_woken: bool = False) -> None:
        now = self._now()
        self._drop_stale_reports()
        demand = self._demand(key, tracked, now)
        tracked.idle_since = demand.idle_since
        if tracked.desired or demand.in_flight or is_woken:
            wish = desired_replicas(tracked.policy, demand, now)
        else:
            # What sleeps is woken by demand alone, not by a longer idle period of a new policy.
            wish = tracked.policy.floor
        if not self._reports:
            wish = max(wish, tracked.desired)
        decided = tracked.wishes.decide(wish, tracked.policy, now)
        if decided == tracked.desired:
            return
        logger.info("scale", extra={"workload": key, "from": tracked.desired, "to": decided})
        self._keep(key, tracked, decided)
        for listener in self._listeners:
            listener(key)

    def _keep(self, key: str, tracked: _Tracked, decided: int) -> None:
        tracked.desired = decided
        if decided:
            self._awake.add(key)
        else:
            self._awake.discard(key)

    def _demand(self, key: str, tracked: _Tracked, now: datetime) -> Demand:
        """Join what all gateways see; the last zero never moves back."""
        seen = [demands[key] for _, demands in self._reports.values() if key in demands]
        in_flight = sum(report.in_flight for report in seen)
        is_unknown = not self._reports and tracked.desired > 0
        idle_since = max(
            tracked.idle_since,
            *(min(report.idle_since, now) for report in seen if report.idle_since is not None),
            tracked.idle_since if not (in_flight or is_unknown) else now,
        )
        return Demand(
            requests_per_second=sum(report.requests_per_second for report in seen),
            in_flight=in_flight,
            idle_since=idle_since,
        )
