"""Handlers of any of the four call kinds, and how one is made of another.

A streaming handler becomes a coroutine that writes: grpc.aio leaves an async generator to the
garbage collector when the client goes away in the middle of a write, whereas here cancellation
closes it at once, in order, in the same task.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

# Generic for the type checker alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
Reader: TypeAlias = Callable[[bytes], Any]


def behaviour_of(handler: Handler) -> Any:
    """Return the function that serves the method."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def is_built(handler: Handler) -> bool:
    """Tell a method of ours from a generated stub, which is a plain function."""
    behaviour = behaviour_of(handler)
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


def as_coroutine(handler: Handler) -> Behaviour:
    """Return the handler's function as a coroutine, which writes what a generator yields."""
    behaviour: Any = behaviour_of(handler)
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # type: ignore[no-any-return]

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write_all


def like(handler: Handler, behaviour: Behaviour, read: Reader | None) -> Handler:
    """Return a handler of the same kind with another function and another reader of messages.

    It may give some of its messages as the bytes that they are sent as.
    """
    makers: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    maker = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: Handler = maker(
        behaviour,
        request_deserializer=read,
        response_serializer=_lets_bytes_pass(handler.response_serializer),
    )
    return made


def _lets_bytes_pass(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    if serializer is None:
        return None

    def write(message: Any) -> bytes:
        return message if type(message) is bytes else serializer(message)

    return write
