"""Clusters that outlive their last replica."""

from dataclasses import replace

from tests.unit.gateway.test_xds import SHAPE, route

from ignite.domain.routes import Route
from ignite.gateway.lingering import Lingering
from ignite.gateway.table import RouteTable
from ignite.gateway.xds import CDS, EDS, VHDS, Compiler


def cold(warm: Route) -> Route:
    return replace(warm, replicas=())


class TestLingering:
    def test_route_that_goes_cold_lingers_until_its_time_is_over(self) -> None:
        now = 100.0
        lingering = Lingering(secs=10, clock=lambda: now)
        assert lingering.after(RouteTable.of(1, [route()])) == ()
        assert lingering.after(RouteTable.of(2, [cold(route())])) == (route(),)
        now = 109.0
        assert lingering.after(RouteTable.of(3, [])) == (route(),)
        now = 110.0
        assert lingering.after(RouteTable.of(4, [])) == ()

    def test_route_that_is_warm_again_does_not_linger(self) -> None:
        lingering = Lingering(secs=10, clock=lambda: 0.0)
        lingering.after(RouteTable.of(1, [route()]))
        lingering.after(RouteTable.of(2, []))
        assert lingering.after(RouteTable.of(3, [route()])) == ()
        assert lingering.after(RouteTable.of(4, [])) == (route(),)


class TestSnapshot:
    def test_lingering_cluster_stays_as_it_was_and_leads_to_the_activator_alone(self) -> None:
        compiler = Compiler(SHAPE)
        warm = compiler.snapshot(RouteTable.of(1, [route()])).resources
        table = RouteTable.of(2, [cold(route())])
        left = compiler.snapshot(table, lingering=[route()]).resources
        key = route().key
        assert left[CDS][key] == warm[CDS][key]
        assert b"/run/r1" in warm[EDS][key].body.value
        assert b"/run/r1" not in left[EDS][key].body.value
        assert b"/run/a" in left[EDS][key].body.value
        assert set(left[VHDS]) < set(warm[VHDS])
