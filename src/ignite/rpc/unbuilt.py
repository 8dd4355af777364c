"""Answers for methods that the contract names and no servicer overrides.

The generated base classes hold plain functions, ours are coroutines or async generators: that is
how the two are told apart.
"""

import inspect
from typing import Any

import grpc

from ignite.domain.errors import Unimplemented
from ignite.rpc.handlers import (
    Context,
    Continuation,
    Handler,
    behaviour_of,
    lets_bytes_pass,
    replace,
)


class UnbuiltInterceptor(grpc.aio.ServerInterceptor):
    """Raises Unimplemented with the method's name in place of a generated stub.

    Of those that are built it knows what they may do: a stream may hold messages as bytes.
    """

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Replace the handler if it is a stub."""
        handler = await continuation(details)
        if handler is None:
            return None
        behaviour = behaviour_of(handler)
        if inspect.iscoroutinefunction(behaviour):
            return handler
        if inspect.isasyncgenfunction(behaviour):
            return lets_bytes_pass(handler)
        service, _, method = details.method.rpartition("/")
        name = f"{service.rpartition('.')[2]}.{method}"

        async def refuse(_request: Any, _context: Context) -> None:
            raise Unimplemented(f"{name} is not built yet", reason="NotBuilt")

        return replace(handler, refuse)
