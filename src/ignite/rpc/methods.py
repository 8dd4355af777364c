"""The methods of a server, each behind its entrance.

It stands where services add themselves, in place of the server. It leaves their methods
unregistered: grpc.aio waits for the next call of each registered method on its own, and goes
through all of these waits at every call, which cost 40 µs with sixty methods.
"""

from collections.abc import Iterable

import grpc

from ignite.rpc.entrance import Entrance
from ignite.rpc.handlers import Handler


class Methods(grpc.GenericRpcHandler):
    """Finds handlers by method. Those that nobody serves are not remembered."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._services: list[grpc.GenericRpcHandler] = []
        self._known: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add services, as grpc.aio.Server does."""
        self._services.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the same methods come as a generic handler."""

    def service(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return what serves a call; made at the first call of its method."""
        method = details.method
        if (known := self._known.get(method)) is not None:
            return known
        for service in self._services:
            if (handler := service.service(details)) is not None:
                self._known[method] = self._entrance.around(method, handler)
                return self._known[method]
        return None
