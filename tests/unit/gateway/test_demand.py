"""Demand: Envoy's reports and the activator's counts, joined; when an app is idle."""

import pytest

from ignite.gateway.demand import ClusterLoad, Demand, DemandBook

KEY = "acme/a@1#aa"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> DemandBook:
    return DemandBook(clock=clock, wall_ms=clock.wall_ms)


def load(in_flight: int = 0, completed: int = 0, key: str = KEY) -> ClusterLoad:
    return ClusterLoad(key=key, in_flight=in_flight, completed=completed)


def only(book: DemandBook) -> Demand:
    (demand,) = book.demands()
    return demand


class TestRate:
    def test_requests_are_counted_where_they_begin(self, book: DemandBook, clock: Clock) -> None:
        book.report("e", [load(in_flight=6)])
        assert only(book).requests_per_second == pytest.approx(6 / 60)
        clock.now += 1
        book.report("e", [load(in_flight=2, completed=10)])
        assert only(book).requests_per_second == pytest.approx(12 / 60)
        assert only(book).completed_total == 10

    def test_the_window_is_a_minute(self, book: DemandBook, clock: Clock) -> None:
        book.report("e", [load(completed=60)])
        clock.now += 59
        assert only(book).requests_per_second == pytest.approx(1)
        clock.now += 2
        assert only(book).requests_per_second == 0

    def test_held_requests_count_too(self, book: DemandBook) -> None:
        book.move("", f"waiting {KEY}")
        assert only(book).requests_per_second == pytest.approx(1 / 60)
        book.move(f"waiting {KEY}", f"relayed {KEY}")
        assert only(book).requests_per_second == pytest.approx(1 / 60)


class TestInFlight:
    def test_both_ways_are_added(self, book: DemandBook) -> None:
        book.report("e", [load(in_flight=3)])
        book.move("", f"waiting {KEY}")
        book.move("", f"relayed {KEY}")
        assert (only(book).in_flight, only(book).waiting) == (4, 1)

    def test_a_cluster_missing_in_a_report_has_nothing(self, book: DemandBook) -> None:
        book.report("e", [load(in_flight=3)])
        book.report("e", [])
        assert only(book).in_flight == 0

    def test_static_clusters_are_no_apps(self, book: DemandBook) -> None:
        book.report("e", [load(in_flight=3, key="ignite_api")])
        assert book.demands() == ()

    def test_a_request_that_changes_its_route_is_counted_once(self, book: DemandBook) -> None:
        other = "acme/a@2#bb"
        book.move("", f"waiting {KEY}")
        book.move(f"waiting {KEY}", f"relayed {other}")
        book.move(f"relayed {other}", "")
        found = {demand.key: demand for demand in book.demands()}
        assert found[KEY].waiting == found[other].in_flight == 0
        assert (found[KEY].completed_total, found[other].completed_total) == (0, 1)


class TestIdle:
    def test_idle_begins_when_the_last_request_ends(self, book: DemandBook, clock: Clock) -> None:
        book.report("e", [load(in_flight=2)])
        assert only(book).last_zero_ms == 0
        clock.now += 5
        book.report("e", [load(in_flight=1, completed=1)])
        assert only(book).last_zero_ms == 0
        clock.now += 5
        book.report("e", [load(completed=1)])
        assert only(book).last_zero_ms == 1_010_000
        clock.now += 5
        book.report("e", [])
        assert only(book).last_zero_ms == 1_010_000

    def test_a_request_within_one_interval_moves_it(self, book: DemandBook, clock: Clock) -> None:
        book.report("e", [load(completed=1)])
        clock.now += 30
        book.report("e", [load(completed=1)])
        assert only(book).last_zero_ms == 1_030_000

    def test_a_long_request_is_never_idle(self, book: DemandBook, clock: Clock) -> None:
        book.report("e", [load(in_flight=1)])
        for _ in range(100):
            clock.now += 60
            book.report("e", [load(in_flight=1)])
        assert only(book).in_flight == 1
        assert only(book).last_zero_ms == 0

    def test_moving_from_waiting_to_relayed_is_no_idle_moment(self, book: DemandBook) -> None:
        book.move("", f"waiting {KEY}")
        book.move(f"waiting {KEY}", f"relayed {KEY}")
        assert only(book).last_zero_ms == 0

    def test_a_warm_route_that_nobody_asked_for_is_idle_from_now(
        self, book: DemandBook, clock: Clock
    ) -> None:
        (demand,) = book.demands([KEY])
        assert demand.last_zero_ms == clock.wall_ms()
        clock.now += 10
        assert book.demands([KEY]) == (demand,)


class TestForgetting:
    def test_routes_that_are_gone_are_forgotten_once_idle(
        self, book: DemandBook, clock: Clock
    ) -> None:
        book.report("e", [load(in_flight=1)])
        book.forget({})
        assert only(book).in_flight == 1
        book.report("e", [])
        clock.now += 61
        book.forget({KEY: 1})
        assert book.demands()
        book.forget({})
        assert not book.demands()
