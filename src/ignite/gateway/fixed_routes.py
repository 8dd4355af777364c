"""The routes that no app changes: the API's hosts, and every other host's way to the activator."""

import re
from collections.abc import Iterator

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from ignite.gateway import authorization, names, replies
from ignite.gateway.authorization import Config
from ignite.gateway.listeners import BUFFER_FILTER, HTTP, TRANSCODER_FILTER
from ignite.gateway.shape import Shape
from ignite.rpc.auth import OPEN_SERVICES
from ignite.v1 import ignite_options_pb2 as options

FALLBACK = "fallback"
PACKAGE = "dodil.ignite.v1"
# Admin has a listener of its own; the JSON of models is not protobuf's and is made by the edge.
_NOT_TRANSCODED = frozenset({f"{PACKAGE}.AdminService", f"{PACKAGE}.ModelService"})
_IP_LITERAL = r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\])(:\d+)?"
_INVOKE = r"/v1/ignite/app/[^/]+/[^/]+/invoke"
_PUBLIC_BODY_BYTES = 16 * 1024


def transcoded_services(descriptors: bytes) -> tuple[str, ...]:
    """Return the services of ours that Envoy serves as JSON."""
    found = {
        f"{file.package}.{service.name}"
        for file in FileDescriptorSet.FromString(descriptors).file
        if file.package == PACKAGE
        for service in file.service
    }
    return tuple(sorted(found - _NOT_TRANSCODED))


def open_paths(shape: Shape) -> list[Config]:
    """Return what matches the paths of JSON that the contract serves to everybody.

    A form of path that is not understood here asks for a token: the safe side.
    """
    found: list[Config] = []
    for service, method in _open_methods(shape.descriptors):
        path = method.options.Extensions[annotations_pb2.http].get
        if service not in shape.services or not path:
            continue
        parts = re.split(r"\{\w+\}", path)
        regex = "[^/]+".join(re.escape(part) for part in parts)
        found.append({"safe_regex": {"regex": regex}} if parts[1:] else {"path": path})
    return found


def _open_methods(descriptors: bytes) -> Iterator[tuple[str, MethodDescriptorProto]]:
    for file in FileDescriptorSet.FromString(descriptors).file:
        for service in file.service:
            for method in service.method:
                if method.options.Extensions[options.public]:
                    yield f"{file.package}.{service.name}", method


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
        # And bodies of JSON.
        *(_json(match, _PUBLIC_BODY_BYTES, {}) for match in open_paths(shape)),
        _json({"prefix": "/v1/ignite/"}, shape.max_json_body_bytes, authorization.api_rules(shape)),
        {"match": {"prefix": "/v1/"}, **_edge()},
        {"match": {"path_separated_prefix": "/mcp"}, **_edge()},
    ]


def _open_grpc(shape: Shape) -> list[Config]:
    """Return the routes of native gRPC that need no token; little is kept for a second try."""
    matches = [
        *({"prefix": f"/{service}/"} for service in sorted(OPEN_SERVICES)),
        *({"path": f"/{name}/{method.name}"} for name, method in _open_methods(shape.descriptors)),
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
