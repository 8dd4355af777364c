"""What Envoy is told of one warm app, as plain data: a cluster, its endpoints, its virtual hosts.

A virtual host is a resource of its own (VHDS), so one change of an app is one resource on the wire.
"""

from typing import Any

from ignite.domain.apps import host_label
from ignite.domain.routes import Route
from ignite.domain.workloads import Replica
from ignite.gateway import authorization, fixed_routes, listeners, names
from ignite.gateway.authorization import Config
from ignite.gateway.shape import Shape
from ignite.gateway.table import Target

TYPE = "type.googleapis.com/"
RETRY_BUFFER_BYTES = 64 * 1024
IDLE_FLOOR_SECS = 300
APPEND = "APPEND_IF_EXISTS_OR_ADD"


def cluster(route: Route, shape: Shape) -> Config:
    """Return the cluster of a warm route. Envoy sets no bound of its own; replicas do."""
    thresholds: Config = {
        "max_connections": names.UNBOUNDED,
        "max_pending_requests": names.UNBOUNDED,
        "max_requests": names.UNBOUNDED,
        "max_retries": names.UNBOUNDED,
    }
    breakers: Config = {"thresholds": [thresholds]}
    if bound := connections_bound(route, shape):
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


def connections_bound(route: Route, shape: Shape) -> int:
    """Return how many connections a replica gets, 0 for any number.

    An image's own server keeps no bound: one connection carries one HTTP/1.1 request.
    """
    if any(replica.endpoint.host for replica in route.replicas):
        return route.max_concurrency or shape.default_max_concurrency
    return 0


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
    host = _host(route, shape, keep_execution_id=False)
    if cors:
        # Envoy repeats the origin: a cache must not give one site's answer to another.
        vary = {"header": {"key": "vary", "value": "Origin"}}
        host["response_headers_to_add"].append({**vary, "append_action": APPEND})
    return {
        **host,
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
    config = _host(route, shape, keep_execution_id=True)
    config["routes"][0]["route"]["host_rewrite_literal"] = primary_name(route, shape)
    return config


def host_name(route: Route) -> str:
    """Return the name of an app's virtual host behind the listener's; it holds no slash.

    Envoy reads the route configuration before the last slash of the resource's name, and removes a
    virtual host only where the host itself has that whole name too.
    """
    return f"{route.app.organization}:{route.app.name}"


def primary_name(route: Route, shape: Shape) -> str:
    """Return the name at the app's primary port; for a version that has none, what it would be."""
    return route.hostnames[0] if route.hostnames else f"{host_label(route.app)}.{shape.base_domain}"


def idle_secs(route: Route) -> int:
    """Return how long a stream of the app may stand still."""
    return max(route.timeout_secs, IDLE_FLOOR_SECS) + 5


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


def _host(route: Route, shape: Shape, *, keep_execution_id: bool) -> dict[str, Any]:
    return {
        "routes": [
            {
                "match": {"prefix": "/"},
                "route": {
                    "cluster": route.key,
                    "timeout": f"{route.timeout_secs}s",
                    "idle_timeout": f"{idle_secs(route)}s",
                    "retry_policy": _retries(),
                },
                # What a replica says of this goes, what the activator says gets its public name;
                # a host's own rules are applied after those of its routes.
                "response_headers_to_remove": [names.ERROR],
                "response_headers_to_add": [
                    fixed_routes.overwrite(names.ERROR, f"%RESP({shape.error_mark})%")
                ],
            }
        ],
        "request_headers_to_add": [
            fixed_routes.execution_id(keep=keep_execution_id),
            fixed_routes.overwrite(names.FUNCTION_ID, route.app.id),
            fixed_routes.overwrite(names.ORGANIZATION_ID, route.organization_id),
        ],
        "request_headers_to_remove": ["x-envoy-external-address", names.FUNCTION_VERSION],
        # Upstream answers alone: what Envoy answers itself keeps its mark.
        "response_headers_to_remove": [
            shape.error_mark,
            *(name for name in names.GATEWAY_ONLY if name != names.ERROR),
        ],
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
