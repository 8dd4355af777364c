"""HTTP Invoke: the app's own status, headers and body, with our id and two numbers as trailers.

Before the head a failure is our JSON error. After it the only truth left to tell is that the answer
is not whole: the stream is reset. A client that goes away cancels the call.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from ignite.domain.apps import AppRef
from ignite.domain.errors import InvalidArgument, PermissionDenied
from ignite.domain.identity import OrganizationName, Principal, Scope
from ignite.domain.invocations import Chunk, Frame, Head, HttpCall, Trailer
from ignite.edge.envelope import names_of, read_envelope
from ignite.edge.http import RawHeaders, Request, error_answer, parse_json
from ignite.ports.identity import TokenVerifier
from ignite.rpc.auth import bearer_of
from ignite.rpc.calls import CallsUnderWay
from ignite.rpc.errors import to_ignite_error
from ignite.rpc.request_id import accept_request_id
from ignite.settings import LimitSettings

logger = logging.getLogger(__name__)

EXECUTION_ID = b"x-ignite-execution-id"
_DROPPED = frozenset({"content-length", EXECUTION_ID.decode(), "trailer"})
_BODYLESS = frozenset({204, 205, 304})
# JSON around the payload: base64 takes 4 bytes for 3, the rest is envelope.
_ENVELOPE_BYTES = 256 * 1024


class Invoker(Protocol):
    """The use case."""

    def frames(
        self, principal: Principal, app: AppRef, http: HttpCall, body: bytes
    ) -> AsyncGenerator[Frame, None]:
        """Yield Head, Chunks, Trailer."""


class InvokeEndpoint:
    """POST /v1/ignite/app/{organization}/{app}/invoke."""

    def __init__(
        self,
        verifier: TokenVerifier,
        invoker: Invoker,
        limits: LimitSettings,
        calls: CallsUnderWay,
    ) -> None:
        self._verifier = verifier
        self._invoker = invoker
        self._calls = calls
        self._most = limits.payload_bytes * 4 // 3 + _ENVELOPE_BYTES

    async def __call__(self, request: Request) -> None:
        """Serve one request; raises what the caller may know before the head is sent."""
        principal = await self._verifier.verify(bearer_of(request.header(b"authorization")))
        if Scope.INVOKE_APP not in principal.scopes:
            raise PermissionDenied(
                f"the scope {Scope.INVOKE_APP} is needed",
                reason="ScopeMissing",
                details={"scope": Scope.INVOKE_APP.value},
            )
        with self._calls.one_of(principal):
            await self._invoke(request, principal)

    async def _invoke(self, request: Request, principal: Principal) -> None:
        envelope = parse_json(await request.body(self._most))
        app = _app_of(request, envelope)
        http, body = read_envelope(envelope)
        relay = _Relay(request, self._invoker.frames(principal, app, http, body))
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(relay.run())
            watch = tasks.create_task(request.disconnected())
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            watch.cancel()


def _app_of(request: Request, envelope: object) -> AppRef:
    """Return the app of the path; a body that names another one is wrong, not obeyed."""
    path = (request.values["organization"], request.values["app"])
    named = names_of(envelope if isinstance(envelope, dict) else {})
    for given, wanted, name in zip(named, path, ("organization_name", "app_name"), strict=True):
        if given and given != wanted:
            raise InvalidArgument("is not that of the path", field=name)
    return AppRef(organization=OrganizationName(path[0]), name=path[1])


class _Relay:
    """Writes frames to one client."""

    def __init__(self, request: Request, frames: AsyncGenerator[Frame, None]) -> None:
        self._request = request
        self._frames = frames
        self._started = False
        self._trailers = False
        self._identifier = ""

    async def run(self) -> None:
        """Relay to the end; never raises but on cancellation."""
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    await self._write(frame)
        except Exception as error:  # noqa: BLE001 - the edge of this call
            await self._fail(error)

    async def _write(self, frame: Frame) -> None:
        send = self._request.send
        match frame:
            case Head():
                await self._start(frame)
            case Chunk():
                await send({"type": "http.response.body", "body": frame.data, "more_body": True})
            case Trailer():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                if self._trailers:
                    await send({"type": "http.response.trailers", "headers": _trailers(frame)})

    async def _start(self, head: Head) -> None:
        extensions = self._request.scope.get("extensions") or {}
        self._trailers = "http.response.trailers" in extensions and head.status not in _BODYLESS
        self._identifier = head.execution_id
        self._started = True
        await self._request.send(
            {
                "type": "http.response.start",
                "status": head.status,
                "headers": _headers(head),
                "trailers": self._trailers,
            }
        )

    async def _fail(self, error: Exception) -> None:
        identifier = accept_request_id(self._request.header(b"x-request-id"))
        known = to_ignite_error(error, identifier, "http.invoke")
        if not self._started:
            await error_answer(known).send(self._request.send)
            return
        # Returning with the answer unfinished makes the server reset the stream.
        logger.warning(
            "an answer broke off",
            extra={"execution_id": self._identifier, "reason": known.reason},
        )


def _headers(head: Head) -> RawHeaders:
    kept = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in head.headers
        if name not in _DROPPED
    ]
    return [*kept, (EXECUTION_ID, head.execution_id.encode())]


def _trailers(trailer: Trailer) -> RawHeaders:
    own = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in trailer.trailers
        if name not in ("total_body_bytes", "duration_ms")
    ]
    return [
        *own,
        (b"total_body_bytes", str(trailer.total_body_bytes).encode()),
        (b"duration_ms", str(trailer.duration_ms).encode()),
    ]
