"""Bytes that are no message of the method are the caller's mistake, and say nothing of ours.

grpc.aio reads a message before any handler runs and answers a failure of that itself: UNKNOWN, with
the text of the exception and a trace in the log. So here reading never fails; what could not be
read is handed on as such and refused by the check of messages.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ignite.domain.errors import InvalidArgument
from ignite.rpc.handlers import Context, Continuation, Handler, MessageCheck, read_with, wrap


class Unreadable:
    """Stands for a message that could not be read."""


class DecodingInterceptor(grpc.aio.ServerInterceptor):
    """Raises InvalidArgument for a message that cannot be read."""

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wrap the handler and its reader."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        tolerant = read_with(handler, _tolerant(handler.request_deserializer))
        return wrap(tolerant, _around)


def _tolerant(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return Unreadable()

    return read


@asynccontextmanager
async def _around(_context: Context) -> AsyncIterator[MessageCheck]:
    yield _refuse


def _refuse(message: object) -> None:
    if isinstance(message, Unreadable):
        raise InvalidArgument("the request cannot be read", reason="Unreadable")
