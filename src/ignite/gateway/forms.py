"""The resources of warm apps, made by copying: building them from plain data costs 2 ms an app.

What apps have in common is built once as a message, by the functions that say what it means
(`app_routes`). A copy of it gets what is the app's own. A test holds both ways to the same bytes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from google.protobuf.json_format import ParseDict

from ignite.domain.routes import Route
from ignite.gateway import app_routes, names
from ignite.gateway.authorization import Config
from ignite.gateway.messages import CDS, EDS, VHDS, Resource, packed
from ignite.gateway.shape import Shape
from ignite.gateway.table import Claim, Target

MOST_FORMS = 4096
"""Forms of hosts kept; there are a few an organisation."""

Named: TypeAlias = tuple[str, Resource]
"""A type url and a resource of it."""


class Forms:
    """Makes the resources of warm routes."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._clusters: dict[int, Cluster] = {}
        self._endpoints: ClusterLoadAssignment | None = None
        self._hosts: dict[tuple[object, ...], VirtualHost] = {}

    def of(self, claim: Claim) -> Iterable[Named]:
        """Yield all that belongs to a warm route."""
        route, shape = claim.route, self._shape
        yield CDS, self._cluster(route)
        yield EDS, self._assignment(route)
        if claim.hostnames and (shape.checks_tokens or route.allow_unauthenticated):
            yield VHDS, self._public_host(route, claim.hostnames)
        if claim.is_active:
            yield VHDS, self._active_host(route)
        yield VHDS, self._version_host(route)

    def alone(self, route: Route) -> Iterable[Named]:
        """Yield the cluster of a route that has no replica any more."""
        yield CDS, self._cluster(route)
        yield EDS, self._assignment(replace(route, replicas=()))

    def _cluster(self, route: Route) -> Resource:
        bound = app_routes.connections_bound(route, self._shape)
        form = self._clusters.get(bound)
        if form is None:
            form = ParseDict(app_routes.cluster(route, self._shape), Cluster())
            self._clusters[bound] = form
        made = Cluster()
        made.CopyFrom(form)
        made.name = route.key
        return packed(route.key, made)

    def _assignment(self, route: Route) -> Resource:
        if self._endpoints is None:
            empty = app_routes.endpoints(replace(route, replicas=()), self._shape)
            self._endpoints = ParseDict(empty, ClusterLoadAssignment())
        made = ClusterLoadAssignment()
        made.CopyFrom(self._endpoints)
        made.cluster_name = route.key
        for replica in route.replicas:
            address = made.endpoints[0].lb_endpoints.add().endpoint.address
            if replica.endpoint.unix_path:
                address.pipe.path = replica.endpoint.unix_path
            else:
                address.socket_address.address = replica.endpoint.host
                address.socket_address.port_value = replica.endpoint.port
        return packed(route.key, made)

    def _public_host(self, route: Route, hostnames: tuple[str, ...]) -> Resource:
        made = self._copy(
            "public", route, lambda: app_routes.public_host(route, hostnames, self._shape)
        )
        made.domains[:] = hostnames
        made.name = f"{names.PUBLIC}/{app_routes.host_name(route)}"
        return packed(made.name, made)

    def _active_host(self, route: Route) -> Resource:
        made = self._copy("active", route, lambda: app_routes.active_host(route, self._shape))
        made.routes[0].route.host_rewrite_literal = app_routes.primary_name(route, self._shape)
        made.domains[:] = [names.target_host(Target(app=route.app))]
        made.name = f"{names.INTERNAL}/{app_routes.host_name(route)}"
        return packed(made.name, made)

    def _version_host(self, route: Route) -> Resource:
        made = self._copy("version", route, lambda: app_routes.version_host(route, self._shape))
        made.routes[0].route.host_rewrite_literal = app_routes.primary_name(route, self._shape)
        made.domains[:] = [names.target_host(Target(app=route.app, version=route.version))]
        _set_header(made, names.FUNCTION_VERSION, str(route.version))
        made.name = f"{names.INTERNAL}/{app_routes.host_name(route)}@{route.version}"
        return packed(made.name, made)

    def _copy(self, kind: str, route: Route, build: Callable[[], Config]) -> VirtualHost:
        """Return a copy of the form for the app's organisation with what all hosts have."""
        key = (kind, route.app.organization, route.organization_id, route.allow_unauthenticated)
        form = self._hosts.get(key)
        if form is None:
            if len(self._hosts) >= MOST_FORMS:
                self._hosts.clear()
            form = self._hosts[key] = ParseDict(build(), VirtualHost())
        made = VirtualHost()
        made.CopyFrom(form)
        action = made.routes[0].route
        action.cluster = route.key
        action.timeout.seconds = route.timeout_secs
        action.idle_timeout.seconds = app_routes.idle_secs(route)
        _set_header(made, names.FUNCTION_ID, route.app.id)
        return made


def _set_header(host: VirtualHost, name: str, value: str) -> None:
    for option in host.request_headers_to_add:
        if option.header.key == name:
            option.header.value = value
