"""A gRPC server as a component: binds, serves, and drains when it is asked to stop.

Stop: health says not serving → new calls are refused → calls under way get the grace → the rest is
cancelled.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ignite.rpc.entrance import Entrance
from ignite.rpc.gates import Auth
from ignite.rpc.methods import Methods
from ignite.rpc.metrics import RpcMetrics

logger = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_UNIX = "unix:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """One address: `host:port`, or `unix:<path>` which becomes a 0600 socket.

    Port 0 takes a free one. `credentials` None means plain text.
    """

    address: str
    credentials: grpc.ServerCredentials | None = None

    @classmethod
    def unix(cls, path: Path) -> "Bind":
        """Return the bind of a unix socket."""
        return cls(address=f"{_UNIX}{path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service to serve: its full name, the generated `add_…_to_server`, and the servicer."""

    name: str
    add: Callable[[Any, Any], None]
    servicer: object


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Numbers of a server, all from settings or with a reason here.

    Clients may ping every 10 s and we ping silent ones every 30 s, so that a peer that is gone is
    noticed within 40 s and NAT entries stay alive. A connection must have greeted within
    `handshake_secs`; one that carries no call for `idle_secs` is closed in order, and clients open
    another. More calls than `streams_per_connection` wait in the client or take a connection more,
    so that no connection holds state without bound: a call without a message holds some until it
    ends.
    """

    message_bytes: int = 64 * 1024 * 1024
    drain_grace_secs: float = 10.0
    max_concurrent_calls: int | None = None
    keepalive_secs: float = 30.0
    keepalive_timeout_secs: float = 10.0
    metadata_bytes: int = 32 * 1024
    streams_per_connection: int = 1000
    handshake_secs: float = 20.0
    idle_secs: float = 600.0


@dataclass(slots=True)
class GrpcServer:
    """A server of some services on some addresses. A lifecycle component.

    `ports` maps each address as it was asked for to the port that it got (1 for a unix socket);
    it is complete before `ready` is called.
    """

    name: str
    binds: Sequence[Bind]
    services: Sequence[Service]
    entrance: Entrance
    options: ServerOptions = ServerOptions()
    on_bound: Callable[[dict[str, int]], None] = lambda _ports: None
    ports: dict[str, int] = field(default_factory=dict)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled, then drain."""
        checks = health.aio.HealthServicer()
        server = build_server([*self.services, _health(checks)], self.entrance, self.options)
        try:
            for bind in self.binds:
                self.ports[bind.address] = _bind(server, bind)
            self.on_bound(dict(self.ports))
            await server.start()
            for name in ("", *(service.name for service in self.services)):
                await checks.set(name, _SERVING)
            ready()
            await asyncio.Event().wait()
        finally:
            await checks.enter_graceful_shutdown()
            await server.stop(self.options.drain_grace_secs)
            _remove_sockets(self.ports)
            logger.info("grpc server stopped", extra={"server": self.name})


def build_server(
    services: Sequence[Service], entrance: Entrance, options: ServerOptions
) -> grpc.aio.Server:
    """Return a server with the services and reflection, not bound and not started."""
    methods = Methods(entrance)
    for service in (*services, _reflection([service.name for service in services])):
        service.add(service.servicer, methods)
    return grpc.aio.server(
        handlers=[methods],
        maximum_concurrent_rpcs=options.max_concurrent_calls,
        options=_channel_options(options),
    )


def _health(checks: health.aio.HealthServicer) -> Service:
    return Service(
        name=health.SERVICE_NAME,
        add=health_pb2_grpc.add_HealthServicer_to_server,
        servicer=checks,
    )


def _reflection(names: Sequence[str]) -> Service:
    return Service(
        name=reflection.SERVICE_NAME,
        add=reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
        servicer=reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME]),
    )


def grpc_component(
    *,
    name: str,
    binds: Sequence[Bind],
    services: Sequence[Service],
    auth: Auth | None,
    metrics: RpcMetrics | None = None,
    options: ServerOptions | None = None,
    on_bound: Callable[[dict[str, int]], None] = lambda _ports: None,
) -> GrpcServer:
    """Return a server with our entrance before its handlers.

    `auth` None is for sockets that only our own processes can open.
    """
    return GrpcServer(
        name=name,
        binds=binds,
        services=services,
        entrance=Entrance(auth=auth, metrics=metrics),
        options=options or ServerOptions(),
        on_bound=on_bound,
    )


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", options.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", options.streams_per_connection),
        ("grpc.server_handshake_timeout_ms", int(options.handshake_secs * 1000)),
        ("grpc.max_connection_idle_ms", int(options.idle_secs * 1000)),
        ("grpc.max_metadata_size", options.metadata_bytes),
        ("grpc.absolute_max_metadata_size", options.metadata_bytes),
        # Two servers must not share a port by accident.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(options.keepalive_secs * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_secs * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _bind(server: grpc.aio.Server, bind: Bind) -> int:
    if not bind.address.startswith(_UNIX):
        if bind.credentials is None:
            return server.add_insecure_port(bind.address)
        return server.add_secure_port(bind.address, bind.credentials)
    path = Path(bind.address.removeprefix(_UNIX))
    # The socket must never be open to others, not even between bind and chmod.
    before = os.umask(0o177)
    try:
        port = server.add_insecure_port(bind.address)
    finally:
        os.umask(before)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return port


def _remove_sockets(bound: Iterable[str]) -> None:
    for address in bound:
        if address.startswith(_UNIX):
            Path(address.removeprefix(_UNIX)).unlink(missing_ok=True)
