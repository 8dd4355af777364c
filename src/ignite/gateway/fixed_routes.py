"""The routes that no app changes: the API's hosts, and every other host's way to the activator."""

from ignite.gateway import authorization, json_paths, names, replies
from ignite.gateway.authorization import Config
from ignite.gateway.listeners import BUFFER_FILTER, HTTP, TRANSCODER_FILTER
from ignite.gateway.shape import Shape
from ignite.rpc.auth import OPEN_SERVICES

FALLBACK = "fallback"
_IP_LITERAL = r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\])(:\d+)?"
_INVOKE = r"/v1/ignite/app/[^/]+/[^/]+/invoke"
_PUBLIC_BODY_BYTES = 16 * 1024


def public_routes(shape: Shape) -> Config:
    """Return the public route configuration; the virtual hosts of warm apps come beside it."""
    domain = shape.base_domain.lower()
    api_hosts = {domain, f"api.{domain}", "localhost", *(h.lower() for h in shape.api_hosts)}
    api = _api_routes(shape)
    return {
        "name": names.PUBLIC,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            {
                "name": "api",
                "domains": sorted(api_hosts),
                "routes": [*api, _nothing()],
                "request_body_buffer_limit": str(shape.max_json_body_bytes),
            },
            {
                "name": "rest",
                "domains": ["*"],
                "routes": [*(_at_ip_literal(route) for route in api), _nothing()],
                "request_body_buffer_limit": str(shape.max_json_body_bytes),
            },
        ],
        "vhds": _vhds(),
    }


def internal_routes() -> Config:
    """Return the internal route configuration; all its virtual hosts come beside it."""
    return {
        "name": names.INTERNAL,
        "ignore_port_in_host_matching": True,
        "vhds": _vhds(),
    }


def fallback_hosts(shape: Shape) -> tuple[Config, Config]:
    """Return the virtual host of every app that is not warm, for the public and internal listener.

    They are resources beside those of warm apps, because a listener waits for the first of these.
    """
    return (
        {
            "name": f"{names.PUBLIC}/{FALLBACK}",
            "domains": [f"*.{shape.base_domain.lower()}"],
            "routes": [_activator(names.PUBLIC)],
        },
        {
            "name": f"{names.INTERNAL}/{FALLBACK}",
            "domains": ["*"],
            "routes": [_activator(names.INTERNAL)],
        },
    )


def _vhds() -> Config:
    return {"config_source": {"ads": {}, "resource_api_version": "V3"}}


def _activator(listener: str) -> Config:
    """Return the way to the activator, which keeps the time itself; tried until it is back."""
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": names.ACTIVATOR,
            "timeout": "0s",
            "idle_timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,retriable-headers",
                # An activator that stops sends back whom it held; the next one takes them.
                "retriable_headers": [{"name": names.OVERFLOW, "present_match": True}],
                # Pauses are random, down to nothing: so many take ten seconds and more.
                "num_retries": 60,
                "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
            },
        },
        "request_headers_to_add": [
            overwrite(names.VIA, listener),
            execution_id(keep=listener == names.INTERNAL),
        ],
        "request_headers_to_remove": ["x-envoy-external-address"],
        "response_headers_to_remove": [names.OVERFLOW],
    }


def overwrite(name: str, value: str) -> Config:
    """Return a header set whatever was there."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def execution_id(*, keep: bool) -> Config:
    """Return the header that names the execution; only our own roles may bring one."""
    action = "ADD_IF_ABSENT" if keep else "OVERWRITE_IF_EXISTS_OR_ADD"
    return {
        "header": {"key": names.EXECUTION_ID, "value": "exec_%UNIQUE_ID%"},
        "append_action": action,
    }


def _api_routes(shape: Shape) -> list[Config]:
    edge_paths = [
        {"prefix": "/realms/"},
        {"prefix": "/.well-known/"},
        {"path": "/healthz"},
        {"safe_regex": {"regex": _INVOKE}},
    ]
    return [
        # Messages are gathered whole: large ones only of who shows a good token first.
        *_open_grpc(shape),
        {**_grpc({"prefix": "/"}), "typed_per_filter_config": authorization.api_rules(shape)},
        *({"match": match, **_edge()} for match in edge_paths),
        *_other_methods(shape),
        # And bodies of JSON.
        *(_json(match, _PUBLIC_BODY_BYTES, {}) for match in json_paths.open_paths(shape)),
        _json({"prefix": "/v1/ignite/"}, shape.max_json_body_bytes, authorization.api_rules(shape)),
        {"match": {"prefix": "/v1/"}, **_edge()},
        {"match": {"path_separated_prefix": "/mcp"}, **_edge()},
    ]


def _other_methods(shape: Shape) -> list[Config]:
    """Return the routes that refuse methods which a path of the JSON API has not got.

    HEAD too: the transcoder would make it a call and send the body that must not be there.
    """
    kind = replies.of_status(405)
    body = replies.error_body(code=kind.code, message=kind.message, reason=kind.reason)
    found: list[Config] = []
    for path in json_paths.json_paths(shape):
        other = {"safe_regex": {"regex": "|".join(path.methods)}}
        allow = [overwrite("allow", ", ".join(path.methods))]
        rules = {} if path.is_open else authorization.api_rules(shape)
        found.append(
            {
                "match": {
                    "safe_regex": {"regex": path.regex},
                    "headers": [{"name": ":method", "string_match": other, "invert_match": True}],
                },
                "direct_response": {"status": 405, "body": {"inline_string": body.decode()}},
                "response_headers_to_add": [overwrite("content-type", "application/json"), *allow],
                "typed_per_filter_config": rules,
            }
        )
    return found


def _open_grpc(shape: Shape) -> list[Config]:
    """Return the routes of native gRPC that need no token; little is kept for a second try."""
    matches = [
        *({"prefix": f"/{service}/"} for service in sorted(OPEN_SERVICES)),
        *(
            {"path": f"/{name}/{method.name}"}
            for name, method in json_paths.open_methods(shape.descriptors)
        ),
    ]
    bound = {"request_body_buffer_limit": str(_PUBLIC_BODY_BYTES)}
    return [{**_grpc(match), **bound} for match in matches]


def _grpc(match: Config) -> Config:
    """Return a route of native gRPC. What its server would only reset goes no further than here:
    another method than POST, or a hop on the way that left out `te`."""
    is_post = {"name": ":method", "string_match": {"exact": "POST"}}
    return {
        "match": {**match, "grpc": {}, "headers": [is_post]},
        "route": _to(names.API),
        "request_headers_to_add": [overwrite("te", "trailers")],
    }


def _to(cluster: str) -> Config:
    """Return a route without a clock: the services keep their callers' deadlines themselves."""
    return {
        "cluster": cluster,
        "timeout": "0s",
        "idle_timeout": "0s",
        "max_stream_duration": {"max_stream_duration": "0s"},
        "retry_policy": {
            "retry_on": "connect-failure,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
        },
    }


def _edge() -> Config:
    return {
        "route": _to(names.EDGE),
        # The edge sends trailers only to who says it can take them; Envoy can.
        "request_headers_to_add": [overwrite("te", "trailers")],
    }


def _json(match: Config, max_body_bytes: int, rules: Config) -> Config:
    return {
        "match": match,
        "route": _to(names.API),
        "typed_per_filter_config": {
            **rules,
            # The transcoder's own bound does not hold for a body that it reads as it comes.
            BUFFER_FILTER: {
                "@type": f"{HTTP}buffer.v3.BufferPerRoute",
                "buffer": {"max_request_bytes": max_body_bytes},
            },
            TRANSCODER_FILTER: {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "config": {},
            },
        },
    }


def _nothing() -> Config:
    kind = replies.of_status(404)
    body = replies.error_body(code=kind.code, message=kind.message, reason=kind.reason)
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": body.decode()}},
        "response_headers_to_add": [overwrite("content-type", "application/json")],
    }


def _at_ip_literal(route: Config) -> Config:
    """Return `route` for requests that name this machine by address."""
    by_address = {
        "name": ":authority",
        "string_match": {"safe_regex": {"regex": _IP_LITERAL}},
    }
    match = route["match"]
    return {**route, "match": {**match, "headers": [*match.get("headers", ()), by_address]}}
