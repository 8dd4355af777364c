"""The two doors of Envoy: the public HTTP listener and the internal one on a unix socket.

They differ in trust. The public one throws away every header that could pass for ours before
anything looks at the request; the internal one can be reached by our own roles alone.
"""

import base64
import ipaddress

from ignite.gateway import authorization, local_replies, names
from ignite.gateway.authorization import Config
from ignite.gateway.shape import Shape
from ignite.gateway.tls import transport_socket

HTTP = "type.googleapis.com/envoy.extensions.filters.http."
HCM = (
    "type.googleapis.com/envoy.extensions.filters.network."
    "http_connection_manager.v3.HttpConnectionManager"
)
EARLY = (
    "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3."
    "HeaderMutation"
)
CORS_FILTER = "envoy.filters.http.cors"
BUFFER_FILTER = "envoy.filters.http.buffer"
TRANSCODER_FILTER = "envoy.filters.http.grpc_json_transcoder"

# Both spellings: servers that make variables of headers cannot tell `_` from `-`. Names are in
# lower case by then; a match that minds no case costs 2 µs a request.
_OURS = r"x[-_](ignite[-_].*|organization[-_]name|envoy[-_].*)"
_VIA = r"x[-_]ignite[-_](via|error|overflow)"


def public_listener(shape: Shape) -> Config:
    """Return the listener of everyone."""
    chain: Config = {
        "filters": [_http(_public_manager(shape))],
        "transport_socket_connect_timeout": f"{shape.head_secs}s",
    }
    if shape.has_tls:
        chain["transport_socket"] = transport_socket(shape)
    address = {"address": _ip(shape.listen_host), "port_value": shape.listen_port}
    return {
        "name": names.PUBLIC,
        # At a stop the listeners that point inward are shut first.
        "traffic_direction": "INBOUND",
        "address": {"socket_address": address},
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": 256 * 1024,
        "socket_options": keepalive(),
        **({"listener_filters": [_tls_inspector()]} if shape.has_tls else {}),
    }


def keepalive() -> list[Config]:
    """Return what makes the kernel ask silent clients: streams may be silent for hours, and one
    whose client is gone without a word would stay for good."""
    tcp, keep, idle, interval, count = 6, (1, 9), 4, 5, 6
    options = ((*keep, 1), (tcp, idle, 120), (tcp, interval, 15), (tcp, count, 6))
    return [
        {"level": level, "name": name, "int_value": value, "state": "STATE_PREBIND"}
        for level, name, value in options
    ]


def internal_listener(shape: Shape) -> Config:
    """Return the listener of our own roles, a socket that only its owner may open."""
    manager = {
        **_manager(names.INTERNAL, shape),
        "codec_type": "AUTO",
        "http_filters": [_router()],
        "early_header_mutation_extensions": [_removal(_VIA)],
        "skip_xff_append": True,
        "use_remote_address": False,
    }
    return {
        "name": names.INTERNAL,
        "address": {"pipe": {"path": str(shape.internal_socket), "mode": 0o600}},
        "filter_chains": [{"filters": [_http(manager)]}],
        "per_connection_buffer_limit_bytes": 256 * 1024,
    }


def _public_manager(shape: Shape) -> Config:
    filters = [
        {"name": CORS_FILTER, "typed_config": {"@type": f"{HTTP}cors.v3.Cors"}},
        authorization.jwt_filter_reference(),
        authorization.rbac_filter(),
        {
            "name": BUFFER_FILTER,
            "disabled": True,
            "typed_config": {
                "@type": f"{HTTP}buffer.v3.Buffer",
                "max_request_bytes": shape.max_json_body_bytes,
            },
        },
        {
            "name": TRANSCODER_FILTER,
            "disabled": True,
            "typed_config": _transcoder(shape),
        },
        _router(),
    ]
    return {
        **_manager(names.PUBLIC, shape),
        "codec_type": "AUTO",
        "http_filters": filters,
        "early_header_mutation_extensions": [_removal(_OURS)],
        "use_remote_address": True,
        # Nobody is "internal" by address: such callers could steer timeouts and retries by header.
        "internal_address_config": {
            "unix_sockets": False,
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}],
        },
    }


def _transcoder(shape: Shape) -> Config:
    """Return what JSON means, for the routes that enable it.

    It stands here and not with them: Envoy reads the descriptors (8 ms) wherever they stand at
    every change of that resource, and an app that comes or goes changes the routes.
    """
    return {
        "@type": f"{HTTP}grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor_bin": base64.b64encode(shape.descriptors).decode(),
        "services": list(shape.services),
        "match_incoming_request_route": True,
        "print_options": {
            "always_print_primitive_fields": False,
            "always_print_enums_as_ints": False,
            "preserve_proto_field_names": False,
            "stream_newline_delimited": True,
        },
        "convert_grpc_status": True,
        # As with fields of bodies: what a newer client sends is not an error.
        "ignore_unknown_query_parameters": True,
        "request_validation_options": {"reject_unknown_method": True},
        "url_unescape_spec": "ALL_CHARACTERS_EXCEPT_RESERVED",
        "query_param_unescape_plus": True,
        "max_request_body_size": shape.max_json_body_bytes,
        "max_response_body_size": shape.max_json_body_bytes,
    }


def _manager(name: str, shape: Shape) -> Config:
    return {
        "@type": HCM,
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": _ads()},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "max_request_headers_kb": shape.max_request_headers_kb,
        "common_http_protocol_options": {
            "idle_timeout": f"{shape.idle_secs}s" if name == names.PUBLIC else "3600s",
            "max_headers_count": 200,
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {"enable_trailers": True, "accept_http_10": True},
        "http2_protocol_options": {"max_concurrent_streams": 1000, "allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        # Routes say how long their streams may stand still; the default of 5 minutes is for none.
        "stream_idle_timeout": "0s",
        "request_headers_timeout": f"{shape.head_secs}s",
        "delayed_close_timeout": "1s",
        # An app gets the path as it was sent.
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "local_reply_config": local_replies.config(),
    }


def _http(manager: Config) -> Config:
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _ads() -> Config:
    return {"ads": {}, "resource_api_version": "V3"}


def _router() -> Config:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{HTTP}router.v3.Router", "suppress_envoy_headers": True},
    }


def _removal(regex: str) -> Config:
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": EARLY,
            "mutations": [{"remove_on_match": {"key_matcher": {"safe_regex": {"regex": regex}}}}],
        },
    }


def _ip(host: str) -> str:
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    return str(ipaddress.ip_address(host))


def _tls_inspector() -> Config:
    return {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3."
            "TlsInspector"
        },
    }
