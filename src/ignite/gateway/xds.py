"""From a route table to Envoy's resources; pure, so that equal routes give equal bytes.

Only warm apps are here: a virtual host on each listener that leads to them and a cluster with its
endpoints. A virtual host is a resource of its own (VHDS), so one change of an app is one resource
on the wire. A resource's version is a hash of its bytes: after a restart of the gateway Envoy is
told nothing that it knows already.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as _buffer
from envoy.extensions.filters.http.cors.v3 import cors_pb2 as _cors
from envoy.extensions.filters.http.grpc_json_transcoder.v3 import transcoder_pb2 as _transcoder
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as _jwt
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _rbac
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2 as _inspector
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _manager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    header_mutation_pb2 as _early,
)
from envoy.extensions.load_balancing_policies.least_request.v3 import (
    least_request_pb2 as _least_request,
)
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as _previous_hosts
from envoy.extensions.retry.priority.previous_priorities.v3 import (
    previous_priorities_config_pb2 as _previous_priorities,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as _tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as _protocol
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from ignite.domain.apps import host_label
from ignite.domain.routes import Route
from ignite.domain.workloads import Replica
from ignite.gateway import authorization, fixed_routes, listeners, names
from ignite.gateway.authorization import Config
from ignite.gateway.shape import Shape
from ignite.gateway.table import RouteTable, Target

REGISTERED = (
    _buffer,
    _cel,
    _cors,
    _early,
    _inspector,
    _jwt,
    _least_request,
    _manager,
    _previous_hosts,
    _previous_priorities,
    _protocol,
    _rbac,
    _router,
    _tls,
    _transcoder,
)
"""Modules whose types the configurations name inside `Any`; importing them makes them known."""

TYPE = "type.googleapis.com/"
CDS = f"{TYPE}envoy.config.cluster.v3.Cluster"
ECDS = f"{TYPE}envoy.config.core.v3.TypedExtensionConfig"
EDS = f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = f"{TYPE}envoy.config.listener.v3.Listener"
RDS = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
VHDS = f"{TYPE}envoy.config.route.v3.VirtualHost"

RETRY_BUFFER_BYTES = 64 * 1024
IDLE_FLOOR_SECS = 300


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes on the wire."""

    name: str
    version: str
    body: AnyMessage = field(compare=False, repr=False)


Resources = Mapping[str, Mapping[str, Resource]]
"""type url → name → resource."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything Envoy should have at one revision of the table."""

    revision: int
    resources: Resources


class Compiler:
    """Turns tables into snapshots; what belongs to a route that did not change is used again."""

    def __init__(self, shape: Shape, *, keys: str = "") -> None:
        self._shape = shape
        self._tokens = _token_filter(shape, keys)
        self._fixed = [
            (LDS, _resource(Listener(), listeners.public_listener(shape))),
            (LDS, _resource(Listener(), listeners.internal_listener(shape))),
            (RDS, _resource(RouteConfiguration(), fixed_routes.public_routes(shape))),
            (RDS, _resource(RouteConfiguration(), fixed_routes.internal_routes())),
            *(
                (VHDS, _resource(VirtualHost(), host))
                for host in fixed_routes.fallback_hosts(shape)
            ),
        ]
        self._known: dict[str, tuple[_Claim, list[tuple[str, Resource]]]] = {}

    def trust(self, keys: str) -> None:
        """Forget which tokens were good; `keys` names the set of keys that decides from now on."""
        self._tokens = _token_filter(self._shape, keys)

    def snapshot(self, table: RouteTable, *, lingering: Iterable[Route] = ()) -> Snapshot:
        """Return what Envoy should have for `table`; of `lingering` routes the cluster stays."""
        found = [*self._fixed, (ECDS, self._tokens)]
        for route in lingering:
            found.append((CDS, _resource(Cluster(), cluster(route, self._shape))))
            empty = endpoints(replace(route, replicas=()), self._shape)
            found.append((EDS, _resource(ClusterLoadAssignment(), empty)))
        known: dict[str, tuple[_Claim, list[tuple[str, Resource]]]] = {}
        for route in table.by_key.values():
            if not route.is_warm or table.of_target(_target(route)) is not route:
                continue
            claim = _claim(route, table)
            before = self._known.get(route.key)
            if before is None or before[0] != claim:
                before = (claim, list(_of_route(claim, self._shape)))
            known[route.key] = before
            found += before[1]
        self._known = known
        return Snapshot(table.revision, _group(found))


def _token_filter(shape: Shape, keys: str) -> Resource:
    config = authorization.jwt_filter(shape, keys and f":{keys}")
    return _resource(TypedExtensionConfig(), config)


@dataclass(frozen=True, slots=True)
class _Claim:
    """A route and the names that lead to it. The table gives each name to one route alone: Envoy
    refuses all virtual hosts where two claim one name."""

    route: Route
    hostnames: tuple[str, ...]
    is_active: bool


def _target(route: Route) -> Target:
    return Target(app=route.app, version=route.version)


def _claim(route: Route, table: RouteTable) -> _Claim:
    names_of_it = {name.lower() for name in route.hostnames}
    return _Claim(
        route,
        tuple(sorted(name for name in names_of_it if table.of_host(name) is route)),
        table.of_target(Target(app=route.app)) is route,
    )


def _group(pairs: Iterable[tuple[str, Resource]]) -> dict[str, dict[str, Resource]]:
    grouped: dict[str, dict[str, Resource]] = {}
    for kind, resource in pairs:
        grouped.setdefault(kind, {})[resource.name] = resource
    return grouped


def _resource(message: Message, config: Config) -> Resource:
    ParseDict(config, message)
    body = AnyMessage()
    body.Pack(message, deterministic=True)
    name = config.get("name") or config["cluster_name"]
    return Resource(name, hashlib.sha256(body.value).hexdigest()[:16], body)


def _of_route(claim: _Claim, shape: Shape) -> Iterable[tuple[str, Resource]]:
    route = claim.route
    yield CDS, _resource(Cluster(), cluster(route, shape))
    yield EDS, _resource(ClusterLoadAssignment(), endpoints(route, shape))
    if claim.hostnames and (shape.checks_tokens or route.allow_unauthenticated):
        yield VHDS, _resource(VirtualHost(), public_host(route, claim.hostnames, shape))
    if claim.is_active:
        yield VHDS, _resource(VirtualHost(), active_host(route, shape))
    yield VHDS, _resource(VirtualHost(), version_host(route, shape))


def cluster(route: Route, shape: Shape) -> Config:
    """Return the cluster of a warm route. Envoy sets no bound of its own; replicas do."""
    thresholds: Config = {
        "max_connections": names.UNBOUNDED,
        "max_pending_requests": names.UNBOUNDED,
        "max_requests": names.UNBOUNDED,
        "max_retries": names.UNBOUNDED,
    }
    breakers: Config = {"thresholds": [thresholds]}
    if any(replica.endpoint.host for replica in route.replicas):
        # An image's own server keeps no bound: one connection carries one HTTP/1.1 request.
        bound = route.max_concurrency or shape.default_max_concurrency
        breakers["per_host_thresholds"] = [{"max_connections": bound}]
    return {
        "name": route.key,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": "2s",
        "circuit_breakers": breakers,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "per_connection_buffer_limit_bytes": 256 * 1024,
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.least_request",
                        "typed_config": {
                            "@type": f"{TYPE}envoy.extensions.load_balancing_policies."
                            "least_request.v3.LeastRequest",
                            "selection_method": "FULL_SCAN",
                        },
                    }
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Replicas never close an idle connection first, so no request meets a closing one.
                "common_http_protocol_options": {"idle_timeout": "60s"},
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
            }
        },
    }


def endpoints(route: Route, shape: Shape) -> Config:
    """Return the ready replicas, and behind them the activator: it holds what all of them refuse.

    Envoy goes there only with a request that it tries again, or when no replica is left.
    """
    return {
        "cluster_name": route.key,
        "endpoints": [
            {
                "locality": {"zone": "replicas"},
                "lb_endpoints": [_endpoint(replica) for replica in route.replicas],
                "load_balancing_weight": 1,
                "priority": 0,
            },
            {
                "locality": {"zone": names.OVERFLOW_ZONE},
                "lb_endpoints": [
                    {"endpoint": {"address": {"pipe": {"path": str(shape.activator_socket)}}}}
                ],
                "load_balancing_weight": 1,
                "priority": 1,
            },
        ],
    }


def _endpoint(replica: Replica) -> Config:
    where = replica.endpoint
    address: Config = (
        {"pipe": {"path": where.unix_path}}
        if where.unix_path
        else {"socket_address": {"address": where.host, "port_value": where.port}}
    )
    return {"endpoint": {"address": address}}


def public_host(route: Route, hostnames: tuple[str, ...], shape: Shape) -> Config:
    """Return the virtual host of a warm app on the public listener."""
    guard = authorization.route_rules(route, shape)
    cors = {listeners.CORS_FILTER: cors_policy()} if route.allow_unauthenticated else {}
    return {
        **_host(route, keep_execution_id=False),
        "name": f"{names.PUBLIC}/{host_name(route)}",
        "domains": list(hostnames),
        "typed_per_filter_config": {**guard, **cors},
    }


def active_host(route: Route, shape: Shape) -> Config:
    """Return the virtual host of a warm app on the internal listener: its active version's."""
    domain = names.target_host(Target(app=route.app))
    return {
        **_internal_host(route, shape),
        "name": f"{names.INTERNAL}/{host_name(route)}",
        "domains": [domain],
    }


def version_host(route: Route, shape: Shape) -> Config:
    """Return the virtual host of a warm version on the internal listener.

    The version is told to the activator as well: who asks for it gets it, whatever is active then.
    """
    config = _internal_host(route, shape)
    config["request_headers_to_remove"].remove(names.FUNCTION_VERSION)
    version = fixed_routes.overwrite(names.FUNCTION_VERSION, str(route.version))
    config["request_headers_to_add"].append(version)
    return {
        **config,
        "name": f"{names.INTERNAL}/{host_name(route)}@{route.version}",
        "domains": [names.target_host(Target(app=route.app, version=route.version))],
    }


def _internal_host(route: Route, shape: Shape) -> Config:
    config = _host(route, keep_execution_id=True)
    primary = route.hostnames[0] if route.hostnames else fqdn(route, shape)
    config["routes"][0]["route"]["host_rewrite_literal"] = primary
    return config


def host_name(route: Route) -> str:
    """Return the name of an app's virtual host behind the listener's; it holds no slash.

    Envoy reads the route configuration before the last slash of the resource's name, and removes a
    virtual host only where the host itself has that whole name too.
    """
    return f"{route.app.organization}:{route.app.name}"


def fqdn(route: Route, shape: Shape) -> str:
    """Return the name an app would have at its primary port, also for a version that has none."""
    return f"{host_label(route.app)}.{shape.base_domain}"


def cors_policy() -> Config:
    """Return what browsers of any origin may do with an app that asks for no token."""
    return {
        "@type": f"{TYPE}envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"safe_regex": {"regex": ".*"}}],
        "allow_methods": CORS_METHODS,
        "allow_headers": CORS_HEADERS,
        "expose_headers": "*",
        "max_age": CORS_MAX_AGE,
    }


CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
CORS_HEADERS = (
    "authorization, content-type, accept, accept-language, cache-control, x-requested-with"
)
CORS_MAX_AGE = "600"


def _host(route: Route, *, keep_execution_id: bool) -> dict[str, Any]:
    return {
        "routes": [
            {
                "match": {"prefix": "/"},
                "route": {
                    "cluster": route.key,
                    "timeout": f"{route.timeout_secs}s",
                    "idle_timeout": f"{max(route.timeout_secs, IDLE_FLOOR_SECS) + 5}s",
                    "retry_policy": _retries(),
                },
            }
        ],
        "request_headers_to_add": [
            fixed_routes.execution_id(keep=keep_execution_id),
            fixed_routes.overwrite(names.FUNCTION_ID, route.app.id),
            fixed_routes.overwrite(names.ORGANIZATION_ID, route.organization_id),
        ],
        "request_headers_to_remove": ["x-envoy-external-address", names.FUNCTION_VERSION],
        # Upstream answers alone: what Envoy answers itself keeps its mark.
        "response_headers_to_remove": list(names.GATEWAY_ONLY),
        "response_headers_to_add": [
            fixed_routes.overwrite(names.EXECUTION_ID, f"%REQ({names.EXECUTION_ID})%")
        ],
        # A body that is longer than this is passed on all the same, but never sent a second time.
        "request_body_buffer_limit": str(RETRY_BUFFER_BYTES),
    }


def _retries() -> Config:
    """Return the retries that run no handler twice: it was not reached, or said it is full."""
    return {
        "retry_on": "connect-failure,reset-before-request,retriable-headers",
        "retriable_headers": [{"name": names.OVERFLOW, "present_match": True}],
        "num_retries": 4,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3."
                    "PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": "5",
        # Two replicas may refuse, then the activator holds the request until one has room.
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{TYPE}envoy.extensions.retry.priority.previous_priorities.v3."
                "PreviousPrioritiesConfig",
                "update_frequency": 2,
            },
        },
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
    }
