"""The request id: the caller's `x-request-id` if it is a plain word, else a new one.

It goes back in the trailing metadata, which costs no extra message and keeps an early error a
trailers-only answer, which is what lets the JSON transcoder set the HTTP status.
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import grpc

from ignite.rpc.handlers import Context, Continuation, Handler, MessageCheck, accept, wrap

KEY = "x-request-id"

_NEW_BYTES = 13
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_current: ContextVar[str] = ContextVar("ignite_request_id", default="")


def request_id() -> str:
    """Return the id of the request this task serves, "" outside of one."""
    return _current.get()


def accept_request_id(given: str) -> str:
    """Return `given` if it is safe to log and to echo, else a new id."""
    return given if _PLAIN.fullmatch(given) else f"req_{secrets.token_hex(_NEW_BYTES)}"


class RequestIdInterceptor(grpc.aio.ServerInterceptor):
    """Gives every call an id that logs, errors and the answer share."""

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wrap the handler."""
        handler = await continuation(details)
        return handler and wrap(handler, self._around)

    @asynccontextmanager
    async def _around(self, context: Context) -> AsyncIterator[MessageCheck]:
        identifier = accept_request_id(metadata_value(context, KEY))
        token = _current.set(identifier)
        context.set_trailing_metadata(((KEY, identifier),))
        try:
            yield accept
        finally:
            _current.reset(token)


def metadata_value(context: Context, key: str) -> str:
    """Return the only value of `key` in the call's metadata, "" when absent, doubled or binary."""
    found = [value for name, value in context.invocation_metadata() or () if name == key]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
