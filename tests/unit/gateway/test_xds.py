"""From routes to Envoy's resources: who is there, what a change costs, what guards whom."""

from dataclasses import replace
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication, JwtProvider

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway.shape import Issuer, Shape
from ignite.gateway.table import RouteTable, ready_replica
from ignite.gateway.xds import CDS, ECDS, EDS, LDS, RDS, VHDS, Compiler, Resource, Snapshot

SHAPE = Shape(
    listen_host="127.0.0.1",
    listen_port=0,
    tls_cert_file=None,
    tls_key_file=None,
    base_domain="example.com",
    api_hosts=(),
    issuers=(Issuer(issuer="http://i", audience="a", jwks_uri="http://edge/certs"),),
    checks_tokens=True,
    jwks_cache_secs=60,
    max_request_headers_kb=60,
    head_secs=30,
    idle_secs=600,
    max_json_body_bytes=1024,
    default_max_concurrency=16,
    internal_socket=Path("/run/i"),
    activator_socket=Path("/run/a"),
    descriptors=b"",
    services=(),
    error_mark="x-ignite-error-secret",
)


def route(name: str = "hello", *, warm: bool = True, version: int = 1, **changes: object) -> Route:
    key = f"acme/{name}@{version}#aa"
    base = Route(
        key=key,
        app=AppRef(organization=OrganizationName("acme"), name=name),
        organization_id=OrganizationId("org-acme"),
        version=version,
        is_active=True,
        hostnames=(f"{name}-acme.example.com",),
        allow_unauthenticated=False,
        timeout_secs=60,
        max_concurrency=0,
        replicas=(ready_replica(key, "r1", Endpoint(unix_path="/run/r1")),) if warm else (),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's shorthand


def compiled(*routes: Route, shape: Shape = SHAPE) -> Snapshot:
    return Compiler(shape).snapshot(RouteTable.of(1, routes))


def versions(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    return {
        (url, name): resource.version
        for url, group in snapshot.resources.items()
        for name, resource in group.items()
    }


def host(snapshot: Snapshot, name: str) -> VirtualHost:
    found = VirtualHost()
    snapshot.resources[VHDS][name].body.Unpack(found)
    return found


class TestWhoIsThere:
    def test_a_cold_app_costs_nothing(self) -> None:
        assert versions(compiled(route(warm=False))) == versions(compiled())

    def test_a_warm_app_has_a_cluster_and_a_host_on_each_listener(self) -> None:
        snapshot = compiled(route())
        assert list(snapshot.resources[CDS]) == ["acme/hello@1#aa"]
        assert list(snapshot.resources[EDS]) == ["acme/hello@1#aa"]
        assert snapshot.resources[VHDS].keys() == {
            "public/fallback",
            "internal/fallback",
            "public/acme:hello",
            "internal/acme:hello",
            "internal/acme:hello@1",
        }
        assert snapshot.resources[LDS].keys() == {"public", "internal"}
        assert snapshot.resources[RDS].keys() == {"public", "internal"}

    def test_a_host_has_the_name_it_is_removed_by(self) -> None:
        for name in compiled(route()).resources[VHDS]:
            assert host(compiled(route()), name).name == name

    def test_only_the_active_version_has_hostnames(self) -> None:
        snapshot = compiled(route(version=1, is_active=False, hostnames=()), route(version=2))
        assert list(host(snapshot, "public/acme:hello").domains) == ["hello-acme.example.com"]
        assert list(host(snapshot, "internal/acme:hello@1").domains) == ["v1.acme.hello"]
        assert list(host(snapshot, "internal/acme:hello@2").domains) == ["v2.acme.hello"]
        assert list(host(snapshot, "internal/acme:hello").domains) == ["active.acme.hello"]

    def test_only_who_asked_for_a_version_is_tied_to_it(self) -> None:
        snapshot = compiled(route())
        tied = {
            name
            for name in snapshot.resources[VHDS]
            for option in host(snapshot, name).request_headers_to_add
            if option.header.key == "x-ignite-function-version"
        }
        assert tied == {"internal/acme:hello@1"}

    def test_no_domain_is_claimed_twice_whatever_the_table_says(self) -> None:
        again = replace(route(), key="acme/hello@1#bb")
        other = route("other", hostnames=("hello-acme.example.com",))
        snapshot = compiled(route(), again, other)
        for listener in ("public/", "internal/"):
            claimed = [
                domain
                for name in snapshot.resources[VHDS]
                if name.startswith(listener)
                for domain in host(snapshot, name).domains
            ]
            assert len(claimed) == len(set(claimed)), claimed


class TestFixedRoutes:
    def test_a_route_by_address_asks_for_all_that_the_named_one_asks_for(self) -> None:
        found = RouteConfiguration()
        compiled().resources[RDS]["public"].body.Unpack(found)
        named, by_address = (
            next(one for one in found.virtual_hosts if one.name == name) for name in ("api", "rest")
        )
        assert len(named.routes) == len(by_address.routes)
        for ours, theirs in zip(named.routes[:-1], by_address.routes[:-1], strict=True):
            asked = {header.name for header in ours.match.headers}
            assert {header.name for header in theirs.match.headers} == {*asked, ":authority"}


class TestChanges:
    def changed(self, before: Route, after: Route) -> set[str]:
        compiler = Compiler(SHAPE)
        others = [route(f"other{number}") for number in range(20)]
        first = versions(compiler.snapshot(RouteTable.of(1, [before, *others])))
        second = versions(compiler.snapshot(RouteTable.of(2, [after, *others])))
        names = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
        return {url.rpartition(".")[2] for url, _ in names}

    def test_another_replica_changes_the_endpoints_alone(self) -> None:
        more = (*route().replicas, ready_replica("k", "r2", Endpoint(unix_path="/run/r2")))
        assert self.changed(route(), route(replicas=more)) == {"ClusterLoadAssignment"}

    def test_another_timeout_changes_the_hosts_alone(self) -> None:
        assert self.changed(route(), route(timeout_secs=5)) == {"VirtualHost"}

    def test_equal_routes_are_equal_bytes_in_another_process(self) -> None:
        one, two = compiled(route()), compiled(route())
        assert versions(one) == versions(two)
        assert [r.body.value for r in one.resources[CDS].values()] == [
            r.body.value for r in two.resources[CDS].values()
        ]

    def test_what_did_not_change_is_not_built_again(self) -> None:
        compiler = Compiler(SHAPE)
        first = compiler.snapshot(RouteTable.of(1, [route(), route("b")]))
        second = compiler.snapshot(RouteTable.of(2, [route(timeout_secs=9), route("b")]))

        def body(snapshot: Snapshot) -> Resource:
            return snapshot.resources[VHDS]["public/acme:b"]

        assert body(first) is body(second)


class TestGuards:
    def test_a_guarded_host_asks_for_a_token_and_checks_it(self) -> None:
        rules = host(compiled(route()), "public/acme:hello").typed_per_filter_config
        assert rules.keys() == {"envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"}

    def test_an_open_host_asks_for_none(self) -> None:
        snapshot = compiled(route(allow_unauthenticated=True))
        rules = host(snapshot, "public/acme:hello").typed_per_filter_config
        assert rules.keys() == {"envoy.filters.http.cors"}

    def test_where_envoy_cannot_check_tokens_guarded_apps_stay_with_the_activator(self) -> None:
        shape = replace(SHAPE, checks_tokens=False)
        snapshot = compiled(route(), route("open", allow_unauthenticated=True), shape=shape)
        hosts = snapshot.resources[VHDS].keys()
        assert "public/acme:hello" not in hosts
        assert {"internal/acme:hello@1", "public/acme:open"} <= hosts


class TestTokenFilter:
    def provider(self, compiler: Compiler, requirement: str = "caller") -> JwtProvider:
        (resource,) = compiler.snapshot(RouteTable()).resources[ECDS].values()
        held, filter_ = TypedExtensionConfig(), JwtAuthentication()
        resource.body.Unpack(held)
        held.typed_config.Unpack(filter_)
        return filter_.providers[filter_.requirement_map[requirement].provider_name]

    def test_tokens_are_remembered_only_where_the_keys_are_watched(self) -> None:
        assert not self.provider(Compiler(SHAPE)).HasField("jwt_cache_config")
        assert self.provider(Compiler(SHAPE, keys="k")).HasField("jwt_cache_config")

    def test_the_api_gets_the_token_and_no_app_does(self) -> None:
        compiler = Compiler(SHAPE)
        assert not self.provider(compiler).forward
        assert self.provider(compiler, "api").forward

    def test_other_keys_change_the_filter_and_nothing_else(self) -> None:
        compiler = Compiler(SHAPE, keys="one")
        table = RouteTable.of(1, [route()])
        before = versions(compiler.snapshot(table))
        compiler.trust("two")
        after = versions(compiler.snapshot(table))
        changed = {url for (url, name), found in after.items() if before[url, name] != found}
        assert changed == {ECDS}
        compiler.trust("one")
        assert versions(compiler.snapshot(table)) == before


class TestEndpoints:
    def test_paths_and_addresses_and_the_activator_behind(self) -> None:
        replicas = (
            ready_replica("k", "r1", Endpoint(unix_path="/run/r1")),
            ready_replica("k", "r2", Endpoint(host="10.0.0.2", port=80)),
        )
        found = ClusterLoadAssignment()
        compiled(route(replicas=replicas)).resources[EDS]["acme/hello@1#aa"].body.Unpack(found)
        first, second = found.endpoints
        addresses = [one.endpoint.address for one in first.lb_endpoints]
        assert addresses[0].pipe.path == "/run/r1"
        assert addresses[1].socket_address.address == "10.0.0.2"
        assert (first.priority, second.priority) == (0, 1)
        assert second.lb_endpoints[0].endpoint.address.pipe.path == "/run/a"

    @pytest.mark.parametrize(("bound", "expected"), [(0, 16), (3, 3)])
    def test_an_image_s_server_gets_a_bound_by_connections(self, bound: int, expected: int) -> None:
        replicas = (ready_replica("k", "r", Endpoint(host="10.0.0.2", port=80)),)
        found = Cluster()
        snapshot = compiled(route(replicas=replicas, max_concurrency=bound))
        snapshot.resources[CDS]["acme/hello@1#aa"].body.Unpack(found)
        (threshold,) = found.circuit_breakers.per_host_thresholds
        assert threshold.max_connections.value == expected

    def test_envoy_s_own_bounds_are_off(self) -> None:
        found = Cluster()
        compiled(route()).resources[CDS]["acme/hello@1#aa"].body.Unpack(found)
        (threshold,) = found.circuit_breakers.thresholds
        assert {
            threshold.max_connections.value,
            threshold.max_pending_requests.value,
            threshold.max_requests.value,
            threshold.max_retries.value,
        } == {2**32 - 1}
        assert not found.circuit_breakers.per_host_thresholds
