"""The way of every request that no warm app's route takes: look up, check, hold, wake, pass on.

A raw server on a unix socket behind Envoy; one connection carries one request. What came by the
public listener must prove itself here, what came by the internal one was let in by our own roles;
Envoy says which, in a header that no client can send.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ignite.domain.apps import AppRef, host_label
from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    Internal,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from ignite.domain.identity import OrganizationName
from ignite.domain.routes import Route
from ignite.gateway import names, replies
from ignite.gateway.admission import (
    Admission,
    cors_answer,
    cors_vary,
    is_preflight,
    preflight_answer,
)
from ignite.gateway.demand import DemandBook
from ignite.gateway.heads import MAX_HEAD_BYTES, BadHead, Head, read_head
from ignite.gateway.holding import Holding, Slot
from ignite.gateway.relay import CHUNK_BYTES, Body, BrokenOff, Exchange, NotReached, relay
from ignite.gateway.table import Target

logger = logging.getLogger(__name__)

BACKLOG = 4096
HEAD_SECS = 10.0
CLOSE_SECS = 5.0
LAST_ACCEPT_SECS = 0.1


@dataclass(slots=True)
class _Request:
    """One request on its way; `key` is what it is counted under now."""

    head: Head
    target: Target
    way: str
    exchange: Exchange
    began: float
    was_cold: bool = False
    key: str = ""


class Activator:
    """Serves the activator's socket."""

    def __init__(
        self,
        *,
        socket: Path,
        holding: Holding,
        admission: Admission,
        demand: DemandBook,
        error_mark: str,
        base_domain: str,
        drain_secs: float,
        on_cold_wait: Callable[[float], None],
    ) -> None:
        self._socket = socket
        self._holding = holding
        self._admission = admission
        self._demand = demand
        self._error_mark = error_mark
        self._base_domain = base_domain
        self._drain_secs = drain_secs
        self._on_cold_wait = on_cold_wait
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Return the component's name."""
        return "activator"

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; then let relays end within the grace."""
        loop = asyncio.get_running_loop()
        self._socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await loop.create_unix_server(
                self._protocol, str(self._socket), backlog=BACKLOG
            )
        finally:
            os.umask(before)
        try:
            ready()
            await loop.create_future()
        finally:
            # Who still waits is sent back to Envoy, which tries again: the next of us serves it.
            self._holding.close()
            # Nobody finds the socket any more; who has just connected is sent back as well, where
            # a connection that nobody accepts would be reset, and its request lost.
            self._socket.unlink(missing_ok=True)
            await asyncio.sleep(LAST_ACCEPT_SECS)
            server.close()
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=self._drain_secs)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))

    def _protocol(self) -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
        return _Connection(reader, self._accept)

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECS):
                head = await read_head(reader)
            if head is not None:
                await self._answer(head, Exchange(body=Body(reader), writer=writer))
            async with asyncio.timeout(CLOSE_SECS):
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                # Closing on a body that nobody has read would take the answer along.
                while await reader.read(CHUNK_BYTES):
                    pass
        except (BadHead, OSError, TimeoutError):
            logger.debug("a connection of envoy ended early")
        finally:
            writer.close()

    async def _answer(self, head: Head, exchange: Exchange) -> None:
        try:
            await self._handle(await self._request(head, exchange))
        except IgniteError as error:
            # On a warm app's route the public name would be taken for the app's own.
            mark = names.ERROR if head.get(names.VIA) else self._error_mark
            _refuse(exchange.writer, head, error, mark)

    async def _request(self, head: Head, exchange: Exchange) -> _Request:
        via = head.get(names.VIA)
        return _Request(
            head=head,
            target=await self._target(head, via),
            way=via,
            exchange=exchange,
            began=time.monotonic(),
        )

    async def _target(self, head: Head, via: str) -> Target:
        match via:
            case names.PUBLIC:
                return await self._target_of_host(head.get("host"))
            case names.INTERNAL:
                found = names.target_of_host(head.get("host"))
                if found is None:
                    raise NotFound("No app is named so.", reason="AppNotFound")
                return found
            case _:
                return _target_of_route(head)

    async def _target_of_host(self, host: str) -> Target:
        route = await self._holding.route_of_host(host)
        if route is None:
            raise NotFound("No app is served at this host.", reason="HostNotFound")
        return Target(app=route.app)

    async def _handle(self, request: _Request) -> None:
        route = self._holding.table.of_target(request.target)
        if request.way == names.PUBLIC and route is not None:
            if route.allow_unauthenticated and is_preflight(request.head):
                _write(request.exchange.writer, 200, preflight_answer(request.head), b"")
                return
            await self._admission.admit(route, request.head)
        request.was_cold = route is None or not route.is_warm
        try:
            await self._carry(request)
        finally:
            self._count(request, "")

    async def _carry(self, request: _Request) -> None:
        """Wait for a replica and relay, again with another one as long as none took the request."""
        failure: NotReached | None = None
        while True:
            route = self._holding.table.of_target(request.target)
            self._count(request, "waiting", route)
            try:
                slot = await self._holding.acquire(request.target, since=request.began)
            except DeadlineExceeded:
                if failure is None:
                    raise
                raise Unavailable(str(failure), reason=failure.reason) from failure
            pause = False
            try:
                self._count(request, "relayed", slot.route)
                await self._relay(request, slot)
                return
            except NotReached as error:
                failure, pause = error, True
            except BrokenOff:
                raise Unavailable(
                    "The app broke off before it answered.", reason="ReplicaFailed"
                ) from None
            except TimeoutError:
                raise DeadlineExceeded(
                    "The app did not answer within its timeout.", reason="DeadlineExceeded"
                ) from None
            finally:
                self._holding.release(slot, pause=pause)

    async def _relay(self, request: _Request, slot: Slot) -> None:
        waited = time.monotonic() - request.began
        extra = [
            (names.EXECUTION_ID, request.head.get(names.EXECUTION_ID)),
            *cors_answer(slot.route, request.head),
        ]
        if request.was_cold:
            extra += [(names.COLD_START, "true"), (names.WAIT_MS, str(int(waited * 1000)))]
        await relay(
            slot.replica.endpoint,
            self._replica_head(request, slot.route),
            request.exchange,
            timeout_secs=slot.route.timeout_secs,
            extra=extra,
            beside=cors_vary(slot.route) if request.way == names.PUBLIC else (),
            on_answer=lambda: self._on_cold_wait(waited) if request.was_cold else None,
        )

    def _replica_head(self, request: _Request, route: Route) -> Head:
        head = request.head.without(names.VIA, names.ERROR, names.OVERFLOW, names.FUNCTION_VERSION)
        if request.way == names.PUBLIC and not route.allow_unauthenticated:
            # Code of a tenant must not get the means to act as its caller.
            head = head.without("authorization")
        if request.way == names.INTERNAL:
            host = route.hostnames[0] if route.hostnames else self._fqdn(route)
            head = head.plus([("host", host)])
        if not head.is_upgrade:
            head = head.without("keep-alive").plus([("connection", "close")])
        return head.plus(
            [
                (names.FUNCTION_ID, route.app.id),
                (names.ORGANIZATION_ID, route.organization_id),
            ]
        )

    def _fqdn(self, route: Route) -> str:
        return f"{host_label(route.app)}.{self._base_domain}"

    def _count(self, request: _Request, state: str, route: Route | None = None) -> None:
        """Move the request in the book of demand: to waiting, to relayed, or out ("")."""
        before, request.key = request.key, f"{state} {route.key}" if route and state else ""
        if before != request.key:
            self._demand.move(before, request.key)


class _Connection(asyncio.StreamReaderProtocol):
    """A stream whose end cancels the work for it: the client went away, or has its answer."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], "asyncio.Task[None]"],
    ) -> None:
        super().__init__(reader, self._connected, loop=asyncio.get_running_loop())
        self._accept = accept
        self._task: asyncio.Task[None] | None = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._task = self._accept(reader, writer)

    def eof_received(self) -> bool:
        self._end()
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _end(self) -> None:
        """Cancel once: what is cleaning up must not be cancelled in turn."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()


def _target_of_route(head: Head) -> Target:
    """Return what a warm app's route says that the request is for; it was let in there."""
    organization, _, name = head.get(names.FUNCTION_ID).partition("/")
    version = head.get(names.FUNCTION_VERSION)
    if not (organization and name and (version.isdigit() or not version)):
        raise Internal("The request came by no listener.", reason="NoListener")
    app = AppRef(organization=OrganizationName(organization), name=name)
    # Who named no version gets the active one, also where it became another one meanwhile.
    return Target(app=app, version=int(version) if version else None)


def _refuse(writer: asyncio.StreamWriter, request: Head, error: IgniteError, mark: str) -> None:
    status, code = replies.status_of(error)
    fields = [(mark, error.reason)]
    if error.reason == "GatewayStopping":
        fields.append((names.OVERFLOW, "gateway"))
    if "retry_after_secs" in error.details:
        fields.append(("retry-after", error.details["retry_after_secs"]))
    if isinstance(error, Unauthenticated):
        fields.append(("www-authenticate", "Bearer"))
    if request.get("content-type").startswith("application/grpc"):
        fields += [
            ("content-type", "application/grpc"),
            ("grpc-status", str(code)),
            ("grpc-message", error.message),
        ]
        _write(writer, 200, fields, b"")
        return
    body = replies.error_body(code=code, message=error.message, reason=error.reason)
    _write(writer, status, [("content-type", "application/json"), *fields], body)


def _write(
    writer: asyncio.StreamWriter, status: int, fields: list[tuple[str, str]], body: bytes
) -> None:
    head = Head(f"HTTP/1.1 {status} -".encode(), [])
    length = [("content-length", str(len(body))), ("connection", "close")]
    writer.write(head.plus([*fields, *length]).encode() + body)
