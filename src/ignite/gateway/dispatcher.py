"""Carries calls of our own roles to replicas, through Envoy's internal listener.

The same road as everyone's: warm apps are reached by Envoy itself, others through the activator. An
answer that the gateway made is marked by a header that replicas cannot send on, so an app's own 503
stays an answer and a missing replica becomes an error.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from ignite.gateway import names
from ignite.gateway.client import Wire, fields
from ignite.gateway.table import Target, tag_of
from ignite.ports.dispatch import Call, Headers, Reply

MAX_IDLE = 64
MAX_ERROR_BYTES = 64 * 1024
CONNECT_SECS = 5.0
RETRY_SECS = 0.1

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAME = _METHOD
_TARGET = re.compile(r"/[^\x00-\x20\x7f]*")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT = HOP_BY_HOP | {"host", "content-length", "expect"}


class EnvoyDispatcher:
    """Implements ports.dispatch.Dispatcher over a unix socket, with kept connections."""

    def __init__(self, socket: Path, *, max_idle: int = MAX_IDLE) -> None:
        self._socket = socket
        self._max_idle = max_idle
        self._idle: list[Wire] = []

    def dispatch(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        """See the port. Raises InvalidArgument for what is no HTTP."""
        return _Exchange(self, call, request_bytes(call))

    async def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop().abort()

    async def connect(self, ends: float) -> Wire:
        """Return a kept connection or a new one; Envoy may be restarting, nothing is sent yet.

        Raises TimeoutError at the loop's time `ends`.
        """
        while self._idle:
            wire = self._idle.pop()
            if wire.is_open:
                return wire
        async with asyncio.timeout_at(ends):
            return await self._open()

    async def _open(self) -> Wire:
        ends = asyncio.get_running_loop().time() + CONNECT_SECS
        while True:
            try:
                return await Wire.open(self._socket)
            except OSError as error:
                if asyncio.get_running_loop().time() >= ends:
                    raise Unavailable(
                        "The gateway does not answer.", reason="GatewayUnavailable"
                    ) from error
            await asyncio.sleep(RETRY_SECS)

    def put_back(self, wire: Wire) -> None:
        """Keep a connection for the next call, or drop it where something is left on it."""
        wire.end()
        if wire.is_reusable and len(self._idle) < self._max_idle:
            self._idle.append(wire)
        else:
            wire.abort()


class _Exchange:
    """One call. Entered when the head is there; leaving early drops the connection."""

    def __init__(self, dispatcher: EnvoyDispatcher, call: Call, request: bytes) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._request = request
        self._wire: Wire | None = None

    async def __aenter__(self) -> Reply:
        try:
            return await self._begin()
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise _late() from None
            if isinstance(error, OSError):
                raise Unavailable("The gateway broke off.", reason="GatewayUnavailable") from error
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def _begin(self) -> Reply:
        ends = asyncio.get_running_loop().time() + self._call.deadline_secs
        wire = self._wire = await self._dispatcher.connect(ends)
        wire.send(self._request, head_only=self._call.method == "HEAD", ends=ends)
        await wire.head()
        await _check(wire)
        return EnvoyReply(wire)

    def _leave(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._dispatcher.put_back(wire)


class EnvoyReply:
    """Implements ports.dispatch.Reply."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._wire.status

    @property
    def headers(self) -> Headers:
        """The app's headers."""
        return fields(self._wire.headers, HOP_BY_HOP)

    @property
    def trailers(self) -> Headers:
        """The app's trailers, once the body has ended."""
        return fields(self._wire.trailers, HOP_BY_HOP)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises Unavailable when it is cut, DeadlineExceeded when it is late."""
        while True:
            try:
                chunk = await self._wire.read()
            except TimeoutError:
                raise _late() from None
            except OSError as error:
                raise Unavailable("The app broke off its answer.", reason="BrokenOff") from error
            if not chunk:
                return
            yield chunk


def request_bytes(call: Call) -> bytes:
    """Return the request as sent. Raises InvalidArgument for what would not parse."""
    if not _METHOD.fullmatch(call.method):
        raise InvalidArgument("is no HTTP method", field="method")
    if not _TARGET.fullmatch(call.target) or not call.target.isascii():
        raise InvalidArgument("must start with '/' and be percent-encoded", field="path")
    host = names.target_host(_target(call))
    lines = [f"{call.method} {call.target} HTTP/1.1", f"host: {host}", "te: trailers"]
    for name, value in call.headers:
        low = name.lower()
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise InvalidArgument("holds a name or value that HTTP cannot carry", field="headers")
        if low not in _NOT_SENT and not low.startswith(names.HEADER_PREFIX):
            lines.append(f"{low}: {value}")
    lines.append(f"{names.EXECUTION_ID}: {call.execution_id}")
    if call.body or call.method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        lines.append(f"content-length: {len(call.body)}")
    try:
        head = "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidArgument("holds a value that is not latin-1", field="headers") from None
    return head + b"\r\n\r\n" + call.body


def _target(call: Call) -> Target:
    tag = tag_of(call.workload) if call.workload else ""
    return Target(app=call.app, version=call.version, tag=tag)


async def _check(wire: Wire) -> None:
    """Raise the error that the gateway answered, if it was the gateway."""
    reason = next((value for name, value in wire.headers if name == names.ERROR), "")
    if not reason:
        return
    body = b""
    while len(body) < MAX_ERROR_BYTES and (chunk := await wire.read()):
        body += chunk
    raise _error(wire.status, reason, _message(body))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "The app cannot be reached now."


def _error(status: int, reason: str, message: str) -> IgniteError:
    match status:
        case 404:
            return NotFound(message, reason=reason)
        case 408 | 504:
            return DeadlineExceeded(message, reason=reason)
        case 413 | 429 | 431:
            return ResourceExhausted(message, reason=reason)
        case 400:
            return InvalidArgument(message, reason=reason)
        case _:
            return Unavailable(message, reason=reason)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("The app did not answer in time.")
