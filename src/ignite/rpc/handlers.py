"""Puts code around a handler of any of the four call kinds.

An interceptor gives an asynchronous context manager around the whole call; what it yields looks at
each message of the client before the handler sees it. A wrapped streaming handler is a coroutine
that writes: grpc.aio leaves an async generator to the garbage collector when the client goes away
in the middle of a write, whereas here cancellation closes it at once, in order, in the same task.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol, TypeAlias

import grpc

# Generic for the type checker alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MessageCheck = Callable[[Any], None]
Around: TypeAlias = "Callable[[Context], AbstractAsyncContextManager[MessageCheck]]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class Interceptor(Protocol):
    """What grpc.aio asks of an interceptor."""

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Return the handler to run in place of the one that `continuation` finds."""


def accept(_message: object) -> None:
    """Let every message pass."""


def wrap(handler: Handler, around: Around) -> Handler:
    """Return a handler of the same kind that runs inside `around`."""
    inner = behaviour_of(handler)
    streams_in = bool(handler.request_streaming)

    yields = inspect.isasyncgenfunction(inner)

    async def call(request: Any, context: Context) -> Any:
        async with around(context) as check:
            if streams_in:
                request = _checked(request, check)
            else:
                check(request)
            if yields:
                async with aclosing(inner(request, context)) as messages:
                    async for message in messages:
                        await context.write(message)
                return None
            return await inner(request, context)

    return _like(handler, call)


def behaviour_of(handler: Handler) -> Any:
    """Return the function that serves the method."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def replace(handler: Handler, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Handler:
    """Return a handler of the same kind with another function."""
    return _like(handler, behaviour)


def read_with(handler: Handler, deserializer: Callable[[bytes], Any]) -> Handler:
    """Return the same handler with another reader of its messages."""
    return _like(handler, behaviour_of(handler), deserializer)


def lets_bytes_pass(handler: Handler) -> Handler:
    """Return the same handler for one that writes some of its messages itself, as bytes."""
    serializer = handler.response_serializer
    if serializer is None:
        return handler

    def write(message: Any) -> bytes:
        return message if type(message) is bytes else serializer(message)

    return _like(handler, behaviour_of(handler), serializer=write)


async def _checked(messages: AsyncIterator[Any], check: MessageCheck) -> AsyncIterator[Any]:
    async for message in messages:
        check(message)
        yield message


def _like(
    handler: Handler,
    behaviour: Any,
    deserializer: Callable[[bytes], Any] | None = None,
    serializer: Callable[[Any], bytes] | None = None,
) -> Handler:
    makers: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    maker = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: Handler = maker(
        behaviour,
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=serializer or handler.response_serializer,
    )
    return made
