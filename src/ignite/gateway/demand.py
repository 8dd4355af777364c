"""How much of each app is asked for: Envoy's load reports and the activator's counts, joined.

Envoy counts what it sends to replicas itself, the activator what it holds and what it relays. Idle
is "nothing in flight", counted where requests start, never derived from those that ended.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

WINDOW_SECS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLoad:
    """One cluster in one report: requests under way, and those ended since the last report."""

    key: str
    in_flight: int
    completed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The demand for one route, as controllers get it.

    `last_zero_ms` is when nothing was under way or held any more; 0 while that was never so.
    """

    key: str
    requests_per_second: float
    in_flight: int
    waiting: int
    completed_total: int
    last_zero_ms: int

    @property
    def is_zero(self) -> bool:
        """Tell whether nobody asks now."""
        return not (self.in_flight or self.waiting or self.requests_per_second)


@dataclass(slots=True)
class _Count:
    envoy_in_flight: dict[str, int] = field(default_factory=dict)
    relayed: int = 0
    waiting: int = 0
    completed: int = 0
    last_zero_ms: int = 0
    begun: "deque[tuple[float, int]]" = field(default_factory=deque)

    @property
    def in_flight(self) -> int:
        return sum(self.envoy_in_flight.values()) + self.relayed

    def rate(self, now: float) -> float:
        while self.begun and self.begun[0][0] <= now - WINDOW_SECS:
            self.begun.popleft()
        return sum(number for _, number in self.begun) / WINDOW_SECS

    def begin(self, now: float, number: int) -> None:
        # One entry a second is enough for a window of a minute.
        if self.begun and now - self.begun[-1][0] < 1.0:
            at, before = self.begun.pop()
            self.begun.append((at, before + number))
        else:
            self.begun.append((now, number))


class DemandBook:
    """Counts by route key. Reads of the clock come from outside."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._clock = clock
        self._wall_ms = wall_ms
        self._counts: dict[str, _Count] = {}

    def report(self, node: str, loads: Iterable[ClusterLoad]) -> None:
        """Take one report of an Envoy; a cluster that is missing has nothing under way there."""
        seen: set[str] = set()
        for load in loads:
            if "/" not in load.key:
                continue
            seen.add(load.key)
            with _Change(self, load.key) as count:
                # Envoy's own number of requests begun stays 0; it follows from the other two.
                begun = load.completed + load.in_flight - count.envoy_in_flight.get(node, 0)
                if begun > 0:
                    count.begin(self._clock(), begun)
                count.completed += load.completed
                count.envoy_in_flight[node] = load.in_flight
                if load.completed and not count.in_flight and not count.waiting:
                    count.last_zero_ms = self._wall_ms()
        for key, found in self._counts.items():
            if key not in seen and found.envoy_in_flight.get(node):
                with _Change(self, key) as count:
                    del count.envoy_in_flight[node]

    def move(self, before: str, after: str) -> None:
        """Move one request of the activator from a place to another; "" is outside.

        A place is `waiting <key>` or `relayed <key>`. A request counts as begun when it comes in,
        as completed when it leaves from a replica.
        """
        if after:
            state, _, key = after.partition(" ")
            with _Change(self, key) as count:
                _add(count, state, 1)
                if not before:
                    count.begin(self._clock(), 1)
        if before:
            state, _, key = before.partition(" ")
            with _Change(self, key) as count:
                _add(count, state, -1)
                if state == "relayed" and not after:
                    count.completed += 1

    def demands(self, warm: Iterable[str] = ()) -> tuple[Demand, ...]:
        """Return the demand for every route that was ever asked for and is not forgotten.

        A `warm` route that is not known yet counts as idle from now on: this gateway may have been
        restarted, and a replica that just started is not idle since for ever.
        """
        now = self._clock()
        for key in warm:
            if key not in self._counts:
                self.count_of(key).last_zero_ms = self._wall_ms()
        return tuple(
            Demand(
                key=key,
                requests_per_second=count.rate(now),
                in_flight=count.in_flight,
                waiting=count.waiting,
                completed_total=count.completed,
                last_zero_ms=count.last_zero_ms,
            )
            for key, count in self._counts.items()
        )

    def forget(self, live: Mapping[str, object]) -> None:
        """Drop routes that are gone and idle, so that memory follows the table."""
        now = self._clock()
        for key, count in list(self._counts.items()):
            if key not in live and not (count.in_flight or count.waiting or count.rate(now)):
                del self._counts[key]

    def count_of(self, key: str) -> _Count:
        """Return the numbers of `key`, made when first asked for."""
        return self._counts.setdefault(key, _Count())

    def now_ms(self) -> int:
        """Return the wall clock."""
        return self._wall_ms()


def _add(count: _Count, state: str, number: int) -> None:
    if state == "waiting":
        count.waiting += number
    else:
        count.relayed += number


class _Change:
    """One change of a count; notes the moment at which it makes the route idle."""

    def __init__(self, book: DemandBook, key: str) -> None:
        self._book = book
        self._count = book.count_of(key)

    def __enter__(self) -> _Count:
        self._before = self._count.in_flight + self._count.waiting
        return self._count

    def __exit__(self, *_: object) -> None:
        if self._before and not self._count.in_flight + self._count.waiting:
            self._count.last_zero_ms = self._book.now_ms()
