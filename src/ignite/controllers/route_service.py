"""The wire to gateways: RouteService over the board, the autoscaler and wakes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import grpc.aio

from ignite.controllers.autoscaler import Autoscaler, DemandReport
from ignite.controllers.deployments import Deployments
from ignite.controllers.routes import RouteBoard
from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationName
from ignite.domain.routes import Route
from ignite.internal.v1 import routes_pb2 as pb
from ignite.internal.v1 import routes_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class RouteServicer(routes_pb2_grpc.RouteServiceServicer):
    """Serves gateways."""

    def __init__(self, board: RouteBoard, deployments: Deployments, autoscaler: Autoscaler) -> None:
        self._board = board
        self._deployments = deployments
        self._autoscaler = autoscaler

    async def WatchRoutes(  # noqa: N802 - the wire's name
        self, request: pb.WatchRoutesRequest, _context: Context
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        """Stream the board."""
        watching = self._board.watch(request.gateway_id, request.known_revision)
        async with aclosing(watching):
            async for step in watching:
                yield pb.WatchRoutesResponse(
                    revision=step.revision,
                    snapshot=step.is_snapshot,
                    upserts=[to_wire(route) for route in step.upserts],
                    removed_keys=step.removed,
                )

    async def AckRoutes(  # noqa: N802
        self, request: pb.AckRoutesRequest, _context: Context
    ) -> pb.AckRoutesResponse:
        """Record an acknowledgement."""
        self._board.acknowledge(request.gateway_id, request.revision)
        return pb.AckRoutesResponse()

    async def Wake(  # noqa: N802
        self, request: pb.WakeRequest, _context: Context
    ) -> pb.WakeResponse:
        """Ask for a replica."""
        answer = await self._deployments.wake(
            AppRef(organization=OrganizationName(request.organization_name), name=request.app_name),
            request.version if request.HasField("version") else None,
        )
        return pb.WakeResponse(
            ok=answer.ok, key=answer.key, reason=answer.reason, message=answer.message
        )

    async def ReportDemand(  # noqa: N802
        self, request: pb.ReportDemandRequest, _context: Context
    ) -> pb.ReportDemandResponse:
        """Take a gateway's demand."""
        self._autoscaler.report(
            request.gateway_id,
            {
                demand.key: DemandReport(
                    requests_per_second=demand.requests_per_second,
                    in_flight=demand.in_flight + demand.waiting,
                    idle_since=datetime.fromtimestamp(demand.last_zero_ms / 1000, UTC)
                    if demand.last_zero_ms
                    else None,
                )
                for demand in request.demands
            },
        )
        return pb.ReportDemandResponse()


def to_wire(route: Route) -> pb.AppRoute:
    """Return a route as gateways read it."""
    return pb.AppRoute(
        key=route.key,
        organization_name=route.app.organization,
        organization_id=route.organization_id,
        app_name=route.app.name,
        version=route.version,
        active=route.is_active,
        hostnames=route.hostnames,
        allow_unauthenticated=route.allow_unauthenticated,
        public_org=route.is_public,
        timeout_secs=route.timeout_secs,
        max_concurrency=route.max_concurrency,
        endpoints=[
            pb.Endpoint(
                replica_id=replica.id,
                unix_path=replica.endpoint.unix_path,
                host=replica.endpoint.host,
                port=replica.endpoint.port,
            )
            for replica in route.replicas
        ],
        failure_reason=route.failure_reason,
        failure_message=route.failure_message,
    )
