"""What comes out of rounds: order, medians, percentiles, tables."""

from benchmarks.report import Report, text
from benchmarks.rounds import Load, Round, Side, alternate, percentiles


def round_of(requests: int, cpu: float = 1.0, errors: int = 0) -> Round:
    load = Load(requests=requests, errors=errors, secs=2.0, latency_us={"p50": requests * 10.0})
    return Round(load=load, cpu_us={"server": cpu, "generator": 5.0})


class TestAlternate:
    def test_every_other_round_goes_the_other_way(self) -> None:
        journal: list[str] = []

        def side(name: str) -> Side:
            def run() -> Round:
                journal.append(name)
                return round_of(1)

            return Side(name=name, run=run)

        alternate([side("a"), side("b")], rounds=3)

        assert journal == ["a", "b", "b", "a", "a", "b"]

    def test_a_row_holds_medians_and_all_errors(self) -> None:
        rounds = iter([round_of(10, 3.0, 1), round_of(1000, 1.0), round_of(20, 2.0, 4)])

        found = alternate([Side(name="a", run=lambda: next(rounds))], rounds=3)["a"]

        assert found.per_sec == 10.0
        assert found.latency_us == {"p50": 200.0}
        assert found.cpu_us["server"] == 2.0
        assert found.server_cpu_us == 2.0
        assert found.errors == 5


class TestPercentiles:
    def test_are_values_that_were_measured(self) -> None:
        found = percentiles([float(value) for value in range(100, 0, -1)])
        assert found == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 100.0}

    def test_of_nothing_are_zero(self) -> None:
        assert set(percentiles([]).values()) == {0.0}


class TestReport:
    def test_shows_ratio_value_and_baseline(self) -> None:
        report = Report(bench="x")
        report.compare("requests to bare", 300.0, 400.0, unit="/s", target="≥ 0.7")
        line = next(line for line in text(report).splitlines() if "requests to bare" in line)
        assert line.split() == [
            *("requests", "to", "bare", "0.75", "300", "/s", "400", "/s", "≥", "0.7"),
        ]

    def test_baseline_of_nothing_gives_no_ratio(self) -> None:
        report = Report(bench="x")
        report.compare("a", 1.0, 0.0)
        assert report.ratios[0].ratio == 0.0
