"""What every call passes on its way to its handler and back.

In this order: it is counted and timed; it gets an id; what is raised further in becomes a status; a
message that cannot be read is refused; the gate lets the caller in, or not, and looks at each of
its messages; the handler runs.

All of it is made once a method. Interceptors of grpc.aio would be asked anew at every call, and be
a context manager each. A call has a task of its own, so what is set for it in context variables
need not be taken back.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from ignite.rpc.decoding import refuse_unreadable, tolerant
from ignite.rpc.errors import abort, to_ignite_error
from ignite.rpc.gates import OPEN, Auth, Caller, Gate
from ignite.rpc.handlers import Behaviour, Context, Handler, as_coroutine, is_built, like
from ignite.rpc.metrics import MethodMetrics, RpcMetrics, code_name
from ignite.rpc.request_id import identify
from ignite.rpc.unbuilt import refusal_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Stands before the handlers of a server. `auth` None lets everyone in."""

    auth: Auth | None
    metrics: RpcMetrics | None

    def around(self, method: str, handler: Handler) -> Handler:
        """Return what serves `method` in place of `handler`."""
        serve = as_coroutine(handler) if is_built(handler) else refusal_of(method)
        gate = self.auth.gate(method) if self.auth else OPEN
        call = _mapped(method, _guarded(gate, serve, streams_in=bool(handler.request_streaming)))
        if self.metrics is not None:
            call = _counted(self.metrics.of(method), call)
        read = handler.request_deserializer
        return like(handler, call, tolerant(read) if read else None)


def _counted(metrics: MethodMetrics, inner: Behaviour) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        began = time.monotonic()
        metrics.started()
        code = ""
        try:
            return await inner(request, context)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        finally:
            metrics.finished(code or code_name(context), time.monotonic() - began)

    return call


def _mapped(method: str, inner: Behaviour) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        identifier = identify(context)
        try:
            return await inner(request, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise  # the status is already on the wire
        except Exception as error:  # noqa: BLE001 - the supervising edge of every call
            await abort(context, to_ignite_error(error, identifier, method))

    return call


def _guarded(gate: Gate, inner: Behaviour, *, streams_in: bool) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        if not streams_in:
            refuse_unreadable(request)
        caller = await gate.enter(context)
        try:
            if streams_in:
                request = _checked(request, gate, caller)
            else:
                gate.check(caller, request)
            return await inner(request, context)
        finally:
            gate.leave(caller)

    return call


async def _checked(messages: AsyncIterator[Any], gate: Gate, caller: Caller) -> AsyncIterator[Any]:
    async for message in messages:
        refuse_unreadable(message)
        gate.check(caller, message)
        yield message
