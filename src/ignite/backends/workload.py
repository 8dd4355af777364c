"""One Workload of this machine: what is wanted, what is there, and what follows. No I/O.

Order matters here. Up: start, ready, then the caller routes to it. Down: route away, acknowledged
by the gateways, then stop. A replica whose config is old is replaced only once new ones are ready.
"""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ulid import ULID

from ignite.domain.workloads import Endpoint, Replica, ReplicaState, WorkloadSpec, WorkloadStatus

NO_DELAY = timedelta(0)
FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(seconds=60)
LONGEST_AFTER_READY = timedelta(seconds=4)
"""A replica that was ready can start: whoever sends what kills it must not keep others out."""

GOOD_AFTER = timedelta(minutes=5)
"""So long without a failure, and the next one counts as the first."""

STOPPED = "Stopped"
"""The reason of a replica that ended because it was told to, by us or by a spawner that stops."""

_MOST_DOUBLINGS = 10
_ALIVE = (ReplicaState.STARTING, ReplicaState.READY)
_ENDED = (ReplicaState.EXITED, ReplicaState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How many replicas to start, and which to retire and why."""

    start: int = 0
    retire: tuple[tuple[Replica, str], ...] = ()


@dataclass(slots=True)
class Workload:
    """The state of one Workload.

    `spec` is None for one that was found at the driver and that nobody has told anything about
    yet: it is left alone. `leaving` holds replicas that are on their way out. `retry_at` is the end
    of a back-off, during which nothing is started.
    """

    key: str
    spec: WorkloadSpec | None = None
    fingerprint: str = ""
    is_removed: bool = False
    replicas: dict[str, Replica] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    reason: str = ""
    message: str = ""
    trouble: str = ""
    trouble_message: str = ""
    failures: int = 0
    failed_at: datetime | None = None
    retry_at: datetime | None = None
    waits_for_driver: bool = False

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is wanted of it and nothing is left."""
        return not self.replicas and (self.is_removed or self.spec is None)

    def alive(self) -> list[Replica]:
        """Return replicas that start or serve and are not on their way out, oldest first."""
        found = [
            replica
            for replica in self.replicas.values()
            if replica.state in _ALIVE and replica.id not in self.leaving
        ]
        return sorted(found, key=lambda replica: replica.started_at)

    def status(self) -> WorkloadStatus:
        """Return it as others see it: what is on its way out is DRAINING."""
        return WorkloadStatus(
            key=self.key,
            replicas=tuple(
                replace(replica, state=ReplicaState.DRAINING)
                if replica.id in self.leaving and replica.state in _ALIVE
                else replica
                for replica in self.replicas.values()
            ),
            reason=self.reason,
            message=self.message,
            trouble=self.trouble,
            trouble_message=self.trouble_message,
        )

    def want(self, spec: WorkloadSpec) -> bool:
        """Take a spec; False when it was wanted already. Another config forgives past failures."""
        if self.spec == spec and not self.is_removed:
            return False
        fingerprint = spec.fingerprint
        if self.is_removed or self.fingerprint not in ("", fingerprint):
            self.forgive()
        self.spec = spec
        self.fingerprint = fingerprint
        self.is_removed = False
        return True

    def see(self, replica: Replica, now: datetime) -> timedelta | None:
        """Take the state of a replica; returns a back-off when it ended without being told to."""
        before = self.replicas.get(replica.id)
        if replica.state not in _ENDED:
            self.replicas[replica.id] = replica
            became_ready = before is None or before.state is not ReplicaState.READY
            if replica.state is ReplicaState.READY and became_ready:
                self.reason = self.message = self.trouble = self.trouble_message = ""
            return None
        was_leaving = replica.id in self.leaving
        self.forget(replica.id)
        if before is None or was_leaving or self.is_removed or replica.reason == STOPPED:
            return None
        return self._blame(replica, before, now)

    def forget(self, replica_id: str) -> None:
        """Drop a replica that is not there any more."""
        self.replicas.pop(replica_id, None)
        self.leaving.discard(replica_id)

    def forgive(self) -> None:
        """Start anew: no failures, no back-off."""
        self.failures = 0
        self.failed_at = None
        self.trouble = self.trouble_message = ""
        self.end_back_off()

    def end_back_off(self) -> None:
        """Allow a start; the reason is forgotten, so that the next request may try again."""
        self.retry_at = None
        self.waits_for_driver = False
        self.reason = self.message = ""

    def plan(self) -> Steps:
        """Return what brings it closer to what is wanted."""
        if self.is_removed:
            return Steps(retire=tuple((replica, "removed") for replica in self.alive()))
        if self.spec is None:
            return Steps()
        alive = self.alive()
        current = [r for r in alive if fingerprint_of(r.id) == self.fingerprint]
        outdated = [r for r in alive if fingerprint_of(r.id) != self.fingerprint]
        missing = max(self.spec.replicas - len(current), 0)
        return Steps(
            start=missing if self.retry_at is None else 0,
            retire=(
                *((replica, "outdated") for replica in self._replaced(current, outdated)),
                *((replica, "scaled in") for replica in _surplus(current, self.spec.replicas)),
            ),
        )

    def _replaced(self, current: list[Replica], outdated: list[Replica]) -> list[Replica]:
        """Return outdated replicas that are not needed any more.

        They serve until as many new ones are ready; one that never got ready goes at once.
        """
        assert self.spec is not None
        ready = sum(1 for replica in current if replica.state is ReplicaState.READY)
        serving = [r for r in outdated if r.state is ReplicaState.READY]
        starting = [r for r in outdated if r.state is not ReplicaState.READY]
        return outdated if ready >= min(self.spec.replicas, len(serving)) else starting

    def _blame(self, replica: Replica, before: Replica, now: datetime) -> timedelta:
        """Count a failure; those of replicas that were started together count once."""
        ready_at = replica.ready_at or before.ready_at
        has_served = ready_at is not None and now - ready_at > LONGEST_DELAY
        is_long_ago = self.failed_at is None or now - self.failed_at > GOOD_AFTER
        if has_served or is_long_ago:
            self.failures = 0
        if self.retry_at is None or self.failures == 0:
            self.failures += 1
        self.failed_at = now
        self.waits_for_driver = False
        self.trouble, self.trouble_message = replica.reason or "Crashed", replica.message
        if replica.state is ReplicaState.EXITED:
            # It has served, so the next one will: requests wait for it and are not told a reason.
            return _delay(self.failures - 1, LONGEST_AFTER_READY)
        self.reason, self.message = self.trouble, self.trouble_message
        return _delay(self.failures, LONGEST_DELAY)


def _delay(failures: int, longest: timedelta) -> timedelta:
    if failures == 0:
        return NO_DELAY
    return min(FIRST_DELAY * (1 << min(failures - 1, _MOST_DOUBLINGS)), longest)


def _surplus(current: list[Replica], wanted: int) -> list[Replica]:
    """Return what is too many: those that still start first, then the youngest."""
    surplus = max(len(current) - wanted, 0)
    return sorted(
        current, key=lambda r: (r.state is ReplicaState.READY, -r.started_at.timestamp())
    )[:surplus]


def new_replica(key: str, spec: WorkloadSpec, now: datetime) -> Replica:
    """Return a replica to be started."""
    return Replica(
        id=replica_id(spec),
        workload=key,
        state=ReplicaState.STARTING,
        endpoint=Endpoint(),
        started_at=now,
    )


def replica_id(spec: WorkloadSpec) -> str:
    """Return a new id of at most 60 characters: the app's name, the fingerprint, a ULID."""
    name = re.sub(r"[^a-z0-9]+", "-", spec.ref.app.name)[:20].strip("-")
    return f"{name}-{spec.fingerprint}-{str(ULID()).lower()}"


def fingerprint_of(replica_id: str) -> str:
    """Return the fingerprint inside a replica's id."""
    parts = replica_id.rsplit("-", 2)
    return parts[1] if len(parts) == 3 else ""
