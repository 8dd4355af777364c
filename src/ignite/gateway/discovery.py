"""The gRPC server that Envoy calls: delta ADS and load reports, on a unix socket.

Envoy keeps its configuration when this server is gone and tells on its return what it has, so a
restart of the gateway disturbs no request that is under way.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from envoy.service.load_stats.v3 import lrs_pb2_grpc
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from ignite.gateway import names
from ignite.gateway.delta import DeltaStream
from ignite.gateway.demand import ClusterLoad
from ignite.gateway.xds import Snapshot

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

LoadSink = Callable[[str, list[ClusterLoad]], None]
"""Takes the name of a reporting Envoy and all its clusters that have any load."""


class DiscoveryServer:
    """Serves the newest snapshot to every Envoy, and says when all of them have it."""

    def __init__(
        self, *, socket: Path, first: Snapshot, load_report_secs: float, on_load: LoadSink
    ) -> None:
        self._socket = socket
        self._snapshot = first
        self._sequence = 0
        self._interval = load_report_secs
        self._on_load = on_load
        self._streams: dict[DeltaStream, int] = {}
        self._wakers: set[asyncio.Event] = set()
        self._progress = asyncio.Event()
        self._past_rejections = 0

    @property
    def name(self) -> str:
        """Return the component's name."""
        return "discovery"

    @property
    def rejections(self) -> int:
        """Return how many changes were refused by an Envoy."""
        return self._past_rejections + sum(stream.rejections for stream in self._streams)

    @property
    def envoys(self) -> int:
        """Return how many Envoys are connected."""
        return len(self._streams)

    def publish(self, snapshot: Snapshot) -> int:
        """Make `snapshot` the one to serve; returns the number to wait for."""
        self._sequence += 1
        self._snapshot = snapshot
        for waker in self._wakers:
            waker.set()
        return self._sequence

    async def applied(self, sequence: int) -> None:
        """Return once there is an Envoy and all there are have that snapshot or a later one."""
        while not self._streams or min(self._streams.values()) < sequence:
            self._progress.clear()
            await self._progress.wait()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ]
        )
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Discovery(self), server)
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(_LoadReports(self), server)
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{self._socket}")
        finally:
            os.umask(before)
        await server.start()
        try:
            ready()
            await server.wait_for_termination()
        finally:
            await server.stop(grace=None)

    async def stream(
        self, requests: AsyncIterator[DeltaDiscoveryRequest]
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        """Hold one delta stream."""
        stream, waker, inbox = DeltaStream(), asyncio.Event(), asyncio.Queue[Any]()
        reader = asyncio.ensure_future(_read(requests, inbox, waker))
        self._streams[stream] = -1
        self._wakers.add(waker)
        try:
            while not (reader.done() and inbox.empty()):
                while not inbox.empty():
                    stream.receive(inbox.get_nowait())
                snapshot, sequence = self._snapshot, self._sequence
                for response in stream.respond(snapshot):
                    yield response
                if self._streams[stream] != sequence and stream.has_applied(snapshot):
                    self._streams[stream] = sequence
                    self._progress.set()
                await waker.wait()
                waker.clear()
        finally:
            reader.cancel()
            self._wakers.discard(waker)
            del self._streams[stream]
            self._past_rejections += stream.rejections
            self._progress.set()

    async def loads(
        self, requests: AsyncIterator[LoadStatsRequest]
    ) -> AsyncIterator[LoadStatsResponse]:
        """Take the load reports of one Envoy."""
        node = ""
        try:
            async for request in requests:
                if not node:
                    node = request.node.id or "envoy"
                    response = LoadStatsResponse(send_all_clusters=True)
                    response.load_reporting_interval.FromNanoseconds(int(self._interval * 1e9))
                    yield response
                self._on_load(node, [_cluster_load(found) for found in request.cluster_stats])
        finally:
            # Nothing is known any more; what Envoy still carries is reported when it is back.
            self._on_load(node, [])


async def _read(
    requests: AsyncIterator[DeltaDiscoveryRequest],
    inbox: "asyncio.Queue[Any]",
    waker: asyncio.Event,
) -> None:
    try:
        async for request in requests:
            inbox.put_nowait(request)
            waker.set()
    finally:
        waker.set()


def _cluster_load(found: Any) -> ClusterLoad:
    # What lies in the activator's zone is counted by the activator.
    zones = [
        zone for zone in found.upstream_locality_stats if zone.locality.zone != names.OVERFLOW_ZONE
    ]
    return ClusterLoad(
        key=found.cluster_name,
        in_flight=sum(zone.total_requests_in_progress for zone in zones),
        completed=sum(zone.total_successful_requests + zone.total_error_requests for zone in zones),
    )


class _Discovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, server: DiscoveryServer) -> None:
        self._server = server

    async def DeltaAggregatedResources(  # noqa: N802
        self,
        request_iterator: AsyncIterator[DeltaDiscoveryRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        async for response in self._server.stream(request_iterator):
            yield response


class _LoadReports(lrs_pb2_grpc.LoadReportingServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, server: DiscoveryServer) -> None:
        self._server = server

    async def StreamLoadStats(  # noqa: N802
        self,
        request_iterator: AsyncIterator[LoadStatsRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[LoadStatsResponse]:
        async for response in self._server.loads(request_iterator):
            yield response
