"""Rounds that alternate between the sides of a comparison, and what comes out of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a generator saw over one round. Latencies are microseconds by percentile."""

    requests: int
    errors: int
    secs: float
    latency_us: Mapping[str, float]
    cpu_us: int = 0
    detail: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one side; CPU is microseconds a request, by part."""

    load: Load
    cpu_us: Mapping[str, float]

    @property
    def per_sec(self) -> float:
        """Requests a second."""
        return self.load.requests / self.load.secs if self.load.secs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side: its name and what runs one round."""

    name: str
    run: Callable[[], Round]


@dataclass(frozen=True, slots=True, kw_only=True)
class Medians:
    """The rounds of one side in one row."""

    name: str
    per_sec: float
    latency_us: Mapping[str, float]
    cpu_us: Mapping[str, float]
    errors: int
    rounds: int

    @property
    def server_cpu_us(self) -> float:
        """CPU of all parts but the generator."""
        return sum(value for name, value in self.cpu_us.items() if name != "generator")


def alternate(sides: Sequence[Side], rounds: int) -> dict[str, Medians]:
    """Run all sides once a round, every other round in reverse, and return their medians."""
    return {name: medians(name, taken) for name, taken in taken_in(sides, rounds).items()}


def taken_in(sides: Sequence[Side], rounds: int) -> dict[str, list[Round]]:
    """Run all sides once a round, every other round in reverse, and return what each was."""
    found: dict[str, list[Round]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side.name].append(side.run())
    return found


def medians(name: str, taken: Sequence[Round]) -> Medians:
    """Return the median of every number by itself; errors are summed."""
    return Medians(
        name=name,
        per_sec=statistics.median(one.per_sec for one in taken),
        latency_us=_each([one.load.latency_us for one in taken]),
        cpu_us=_each([one.cpu_us for one in taken]),
        errors=sum(one.load.errors for one in taken),
        rounds=len(taken),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of an ordered list lies; 0 of an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the largest."""
    ordered = sorted(values)
    return {
        "p50": percentile(ordered, 0.50),
        "p95": percentile(ordered, 0.95),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1] if ordered else 0.0,
    }


def _each(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in names}
