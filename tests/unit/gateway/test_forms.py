"""Short ways to the same result: copies of forms, and snapshots made from the last one."""

from collections.abc import Mapping, Sequence

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.test_xds import SHAPE

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway import app_routes
from ignite.gateway.authorization import Config
from ignite.gateway.forms import Forms
from ignite.gateway.messages import CDS, EDS, VHDS, parsed
from ignite.gateway.table import Claim, RouteTable, RouteUpdate, ready_replica
from ignite.gateway.xds import Compiler

ENDPOINTS = (
    Endpoint(unix_path="/run/r1"),
    Endpoint(unix_path="/run/r2"),
    Endpoint(host="10.0.0.2", port=80),
)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    organization = draw(st.sampled_from(["acme", "public", "other"]))
    name = draw(st.sampled_from(["a", "b", "c.d"]))
    version = draw(st.integers(0, 2))
    key = f"{organization}/{name}@{version}#{draw(st.sampled_from(['aa', 'bb']))}"
    found = draw(st.lists(st.sampled_from(ENDPOINTS), max_size=3, unique=True))
    hostnames = st.sampled_from(["one.example.com", "Two.example.com", "three.example.com"])
    return Route(
        key=key,
        app=AppRef(organization=OrganizationName(organization), name=name),
        organization_id=OrganizationId(draw(st.sampled_from(["", f"org-{organization}", "x"]))),
        version=version,
        is_active=draw(st.booleans()),
        hostnames=tuple(draw(st.lists(hostnames, max_size=2, unique=True))),
        allow_unauthenticated=draw(st.booleans()),
        timeout_secs=draw(st.integers(1, 900)),
        max_concurrency=draw(st.integers(0, 3)),
        replicas=tuple(ready_replica(key, f"r{n}", one) for n, one in enumerate(found)),
    )


@st.composite
def updates(draw: st.DrawFn) -> RouteUpdate:
    upserts = draw(st.lists(routes(), max_size=3, unique_by=lambda route: route.key))
    return RouteUpdate(
        revision=draw(st.integers(1, 99)),
        is_snapshot=draw(st.integers(0, 9)) == 0,
        upserts=tuple(upserts),
        removed_keys=tuple(route.key for route in draw(st.lists(routes(), max_size=2))),
    )


def described(claim: Claim) -> Mapping[tuple[str, str], bytes]:
    """Return the resources of a claim, each built from its description alone."""
    route = claim.route
    found: list[tuple[str, Message, Config]] = [
        (CDS, Cluster(), app_routes.cluster(route, SHAPE)),
        (EDS, ClusterLoadAssignment(), app_routes.endpoints(route, SHAPE)),
        (VHDS, VirtualHost(), app_routes.version_host(route, SHAPE)),
    ]
    if claim.hostnames:
        host = app_routes.public_host(route, claim.hostnames, SHAPE)
        found.append((VHDS, VirtualHost(), host))
    if claim.is_active:
        found.append((VHDS, VirtualHost(), app_routes.active_host(route, SHAPE)))
    resources = [(url, parsed(message, config)) for url, message, config in found]
    return {(url, one.name): one.body.value for url, one in resources}


@given(st.lists(routes(), min_size=1, max_size=4))
def test_a_copy_of_a_form_is_what_the_description_says(found: Sequence[Route]) -> None:
    forms = Forms(SHAPE)
    for route in found:
        claim = Claim(route, tuple(sorted(name.lower() for name in route.hostnames)), True)
        made = {(url, one.name): one.body.value for url, one in forms.of(claim)}
        assert made == described(claim)


@given(st.lists(updates(), max_size=5))
def test_steps_lead_where_a_fresh_start_leads(steps: Sequence[RouteUpdate]) -> None:
    table, compiler = RouteTable(), Compiler(SHAPE)
    for step in steps:
        before = table
        table = table.apply(step)
        apps = {route.app.id for route in table.by_key.values()}
        assert table.warm == {app: found for app in apps if (found := tuple(table.claims(app)))}
        if table.warm == before.warm:
            assert table.warm is before.warm
        stepped = compiler.snapshot(table)
    if steps:
        assert stepped == Compiler(SHAPE).snapshot(table)


def test_what_did_not_change_is_the_same_object() -> None:
    compiler = Compiler(SHAPE)
    cold = RouteTable()
    first = compiler.snapshot(cold).resources
    second = compiler.snapshot(cold.apply(RouteUpdate(revision=2))).resources
    for url in (CDS, EDS, VHDS):
        assert first[url] is second[url]
