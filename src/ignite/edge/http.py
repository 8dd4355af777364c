"""The little of HTTP that the edge needs over ASGI: one request, one answer, bounds on both."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    InvalidArgument,
    Unauthenticated,
    Unavailable,
)
from ignite.rpc.status import details_json, message_of, number_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]

# gRPC code → HTTP status (spec 1.8).
_STATUS = {
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    12: 501,
    14: 503,
    16: 401,
}

BODY_SECS = 300.0

JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")


class Disconnected(Exception):
    """The client went away."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `values` are what the route's path holds."""

    scope: Scope
    receive: Receive
    send: Send
    values: Mapping[str, str]

    def header(self, name: bytes) -> str:
        """Return the only value of a header, "" when it is absent or doubled."""
        found = [value for key, value in self.scope["headers"] if key == name]
        return found[0].decode("latin-1") if len(found) == 1 else ""

    async def body(self, most: int) -> bytes:
        """Return the whole body.

        Raises InvalidArgument over `most`, DeadlineExceeded when it takes too long, Disconnected.
        """
        try:
            async with asyncio.timeout(BODY_SECS):
                return await self._body(most)
        except TimeoutError:
            raise DeadlineExceeded("the request body did not come in time") from None

    async def _body(self, most: int) -> bytes:
        declared = self.header(b"content-length")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def disconnected(self) -> None:
        """Return once the client has gone away; for use after the body is read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)

    async def send(self, send: Send) -> None:
        """Write it."""
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_answer(
    value: object, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Answer:
    """Return `value` as a JSON answer."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status=status, body=body, headers=(JSON, *headers))


def error_answer(error: IgniteError) -> Answer:
    """Return our error body with the status of the usual mapping."""
    code = number_of(error)
    value = {"code": code, "message": message_of(error), "details": details_json(error)}
    status = _STATUS.get(code, 500)
    headers: tuple[tuple[bytes, bytes], ...] = (NO_STORE,)
    if after := error.details.get("retry_after_secs"):
        headers = (*headers, (b"retry-after", after.encode()))
    elif isinstance(error, Unavailable):
        headers = (*headers, (b"retry-after", b"1"))
    elif isinstance(error, Unauthenticated):
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    elif allow := error.details.get("allow"):
        status, headers = 405, (*headers, (b"allow", allow.encode()))
    return json_answer(value, status=status, headers=headers)


def parse_json(body: bytes) -> Mapping[str, Any]:
    """Return a JSON object; an empty body is an empty one; raises InvalidArgument."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("is no JSON", field="request body") from error
    if not isinstance(value, dict):
        raise InvalidArgument("must be a JSON object", field="request body")
    return value


def _too_large(most: int) -> InvalidArgument:
    return InvalidArgument(f"must be at most {most} bytes", field="request body")
