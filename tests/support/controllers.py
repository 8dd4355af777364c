"""Controllers as a gateway sees them: RouteService over a dict of routes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from ignite.controllers.route_service import to_wire
from ignite.domain.routes import Route
from ignite.internal.v1 import routes_pb2 as pb
from ignite.internal.v1 import routes_pb2_grpc


class FakeControllers(routes_pb2_grpc.RouteServiceServicer):
    """RouteService over a dict of routes."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.revision = 100
        self.acknowledged = 0
        self.wakes: list[tuple[str, int | None]] = []
        self.reports: list[pb.ReportDemandRequest] = []
        self.on_wake: Callable[[str, int | None], pb.WakeResponse] = lambda _app, _version: (
            pb.WakeResponse(ok=True)
        )
        self._changed = asyncio.Condition()
        self._log: list[tuple[int, str]] = []

    async def put(self, *routes: Route) -> int:
        """Add or replace routes; returns the revision."""
        return await self._change(routes, ())

    async def drop(self, *keys: str) -> int:
        """Remove routes; returns the revision."""
        return await self._change((), keys)

    async def _change(self, routes: tuple[Route, ...], keys: tuple[str, ...]) -> int:
        async with self._changed:
            self.revision += 1
            for key in keys:
                self.routes.pop(key, None)
                self._log.append((self.revision, key))
            for route in routes:
                self.routes[route.key] = route
                self._log.append((self.revision, route.key))
            self._changed.notify_all()
            return self.revision

    async def wait_acknowledged(self, revision: int, timeout: float = 10.0) -> None:
        """Return once the gateway acknowledged `revision`."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: self.acknowledged >= revision)

    def _is_past(self, revision: int) -> bool:
        return self.revision > revision

    async def settle(self, *routes: Route) -> None:
        """Put routes and wait for the acknowledgement."""
        await self.wait_acknowledged(await self.put(*routes))

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Return once `condition` holds after some call of the gateway."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def WatchRoutes(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        sent = self.revision
        yield pb.WatchRoutesResponse(
            revision=sent, snapshot=True, upserts=[to_wire(r) for r in self.routes.values()]
        )
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._is_past, sent))
                keys = {key for at, key in self._log if at > sent}
                sent = self.revision
                found = [self.routes[key] for key in keys if key in self.routes]
                gone = [key for key in keys if key not in self.routes]
            yield pb.WatchRoutesResponse(
                revision=sent, upserts=[to_wire(r) for r in found], removed_keys=gone
            )

    async def AckRoutes(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._changed:
            self.acknowledged = max(self.acknowledged, request.revision)
            self._changed.notify_all()
        return pb.AckRoutesResponse()

    async def Wake(self, request: Any, context: Any) -> Any:  # noqa: N802
        version = request.version if request.HasField("version") else None
        app = f"{request.organization_name}/{request.app_name}"
        async with self._changed:
            self.wakes.append((app, version))
            self._changed.notify_all()
        return self.on_wake(app, version)

    async def ReportDemand(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._changed:
            self.reports.append(request)
            self._changed.notify_all()
        return pb.ReportDemandResponse()
