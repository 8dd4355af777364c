"""What a bench found, for people and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.rounds import Medians


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One number beside its baseline. `target` is what the design asks for: never asserted."""

    what: str
    value: float
    baseline: float
    unit: str = ""
    target: str = ""

    @property
    def ratio(self) -> float:
        """The value over its baseline."""
        return self.value / self.baseline if self.baseline else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number without a baseline."""

    what: str
    value: float
    unit: str = ""
    target: str = ""


@dataclass(slots=True)
class Report:
    """Everything one bench found."""

    bench: str
    ratios: list[Ratio] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    sides: list[Medians] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load_average: tuple[float, float] = (0.0, 0.0)
    secs: float = 0.0

    def compare(
        self, what: str, value: float, baseline: float, *, unit: str = "", target: str = ""
    ) -> None:
        """Add a ratio."""
        self.ratios.append(
            Ratio(what=what, value=value, baseline=baseline, unit=unit, target=target)
        )

    def number(self, what: str, value: float, unit: str = "", target: str = "") -> None:
        """Add a number."""
        self.numbers.append(Number(what=what, value=value, unit=unit, target=target))


def text(report: Report) -> str:
    """Return the report as tables."""
    before, after = report.load_average
    lines = [f"== {report.bench}  ({report.secs:.0f} s, load average {before:.1f} → {after:.1f})"]
    if report.sides:
        lines += ["", *_sides(report.sides)]
    if report.ratios:
        rows = [
            (
                found.what,
                f"{found.ratio:.2f}",
                f"{_short(found.value)} {found.unit}".strip(),
                f"{_short(found.baseline)} {found.unit}".strip(),
                found.target,
            )
            for found in report.ratios
        ]
        lines += ["", *_table(("ratio of", "ratio", "value", "baseline", "target"), rows)]
    if report.numbers:
        plain = [
            (found.what, f"{_short(found.value)} {found.unit}".strip(), found.target)
            for found in report.numbers
        ]
        lines += ["", *_table(("number", "value", "target"), plain)]
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes), ""])


def _sides(sides: Iterable[Medians]) -> list[str]:
    rows = [
        (
            side.name,
            f"{side.per_sec:,.0f}",
            f"{side.latency_us.get('p50', 0) / 1000:.2f}",
            f"{side.latency_us.get('p99', 0) / 1000:.2f}",
            str(side.errors),
            " + ".join(
                f"{name} {value:.0f}" for name, value in side.cpu_us.items() if value >= 0.5
            ),
        )
        for side in sides
    ]
    return _table(("side", "per sec", "p50 ms", "p99 ms", "errors", "CPU µs a request"), rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (names, *rows)) for column in range(len(names))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (names, ["-" * width for width in widths], *rows)
    ]


def _short(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
