"""The wire to controllers: routes in, acknowledgements, wakes and demand out.

When it is down the gateway goes on with the table it has. A stream that begins again asks for
everything: the table is replaced as a whole, and Envoy hears only of what differs.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from ignite.domain.apps import AppRef
from ignite.domain.errors import Unavailable
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway.demand import Demand, DemandBook
from ignite.gateway.holding import WakeAnswer
from ignite.gateway.table import RouteTable, RouteUpdate, Target, ready_replica
from ignite.internal.v1 import routes_pb2 as pb
from ignite.internal.v1 import routes_pb2_grpc

logger = logging.getLogger(__name__)

CALL_SECS = 5.0
RETRY_SECS = (0.05, 0.5)
REPORT_SECS = 1.0
HEARTBEAT_SECS = 5.0
SAVE_PAUSE_SECS = 0.5
SAVE_SHARE = 20
"""Saving a large table takes a twentieth of the time at most."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class ControllersClient:
    """RouteService as the gateway sees it."""

    def __init__(self, socket: Path, gateway_id: str) -> None:
        self._gateway_id = gateway_id
        self._started_at_ms = time.time_ns() // 1_000_000
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self._stub = routes_pb2_grpc.RouteServiceStub(self._channel)

    async def close(self) -> None:
        """Close the wire."""
        await self._channel.close(grace=None)

    async def watch(self, on_update: Callable[[RouteUpdate], None]) -> None:
        """Follow the routes from a snapshot on. Raises Unavailable when the wire breaks."""
        request = pb.WatchRoutesRequest(gateway_id=self._gateway_id, known_revision=0)
        try:
            async for response in self._stub.WatchRoutes(request, wait_for_ready=True):
                on_update(_update(response))
        except grpc.aio.AioRpcError as error:
            raise Unavailable("the routes cannot be followed", reason=error.code().name) from error
        raise Unavailable("the routes ended")

    async def acknowledge(self, revision: int) -> None:
        """Say that no new request goes where `revision` does not lead. Raises Unavailable."""
        request = pb.AckRoutesRequest(gateway_id=self._gateway_id, revision=revision)
        try:
            await self._stub.AckRoutes(request, timeout=CALL_SECS)
        except grpc.aio.AioRpcError as error:
            raise Unavailable("routes cannot be acknowledged", reason=error.code().name) from error

    async def wake(self, target: Target) -> WakeAnswer:
        """See holding.Waker."""
        request = pb.WakeRequest(
            organization_name=target.app.organization,
            app_name=target.app.name,
            version=target.version,
        )
        try:
            answer = await self._stub.Wake(request, timeout=CALL_SECS)
        except grpc.aio.AioRpcError as error:
            raise Unavailable("controllers do not answer", reason=error.code().name) from error
        except grpc.aio.UsageError as error:
            raise Unavailable("the wire to controllers is closed", reason="Closed") from error
        return WakeAnswer(
            ok=answer.ok, reason=answer.reason, message=answer.message, key=answer.key
        )

    async def report(self, demands: tuple[Demand, ...]) -> None:
        """Send the demand. Raises Unavailable."""
        request = pb.ReportDemandRequest(
            gateway_id=self._gateway_id,
            gateway_started_at_ms=self._started_at_ms,
            observed_at_ms=time.time_ns() // 1_000_000,
            demands=[_demand(demand) for demand in demands],
        )
        try:
            await self._stub.ReportDemand(request, timeout=CALL_SECS)
        except grpc.aio.AioRpcError as error:
            raise Unavailable("demand cannot be reported", reason=error.code().name) from error


class RouteWatcher:
    """Keeps the table in step with controllers and acknowledges what the data plane has applied.

    `publish` puts a table in force and returns a number; `applied` waits until Envoy has it.
    """

    def __init__(
        self,
        client: ControllersClient,
        *,
        table: RouteTable,
        publish: Callable[[RouteTable], int],
        applied: Callable[[int], Awaitable[None]],
        save: Callable[[RouteTable], None],
        settle_secs: float,
    ) -> None:
        self._client = client
        self._table = table
        self._publish = publish
        self._applied = applied
        self._save = save
        self._unsaved = asyncio.Event()
        self._settle_secs = settle_secs
        self._fresh = asyncio.Event()
        self._pending: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Return the component's name."""
        return "routes"

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow until cancelled. Ready at once: the last table serves meanwhile."""
        ready()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._acknowledge())
                tasks.create_task(self._keep())
        finally:
            await self._client.close()

    async def _follow(self) -> None:
        delay = RETRY_SECS[0]
        while True:
            before = self._pending
            try:
                await self._client.watch(self._take)
            except Unavailable as error:
                if self._pending is not before:
                    delay = RETRY_SECS[0]
                logger.warning("routes are not followed", extra={"reason": error.reason})
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay = min(delay * 2, RETRY_SECS[1])

    def _take(self, update: RouteUpdate) -> None:
        self._table = self._table.apply(update)
        self._pending = (self._publish(self._table), update.revision)
        self._fresh.set()
        self._unsaved.set()

    async def _keep(self) -> None:
        """Write the newest table to disk, off the loop and not for every step of a burst."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._save, self._table)
            except OSError:
                logger.warning("the route table cannot be saved", exc_info=True)
            took = time.monotonic() - began
            await asyncio.sleep(max(SAVE_PAUSE_SECS, took * SAVE_SHARE))

    async def _acknowledge(self) -> None:
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            assert self._pending is not None
            sequence, revision = self._pending
            await self._applied(sequence)
            await asyncio.sleep(self._settle_secs)
            try:
                await self._client.acknowledge(revision)
            except Unavailable as error:
                # A stream that begins again starts with a snapshot, which is acknowledged anew.
                logger.warning("routes not acknowledged", extra={"reason": error.reason})


class DemandReporter:
    """Sends the demand once a second while it changes, and as a sign of life."""

    def __init__(
        self,
        client: ControllersClient,
        book: DemandBook,
        live: Callable[[], RouteTable],
    ) -> None:
        self._client = client
        self._book = book
        self._live = live

    @property
    def name(self) -> str:
        """Return the component's name."""
        return "demand"

    async def run(self, ready: Callable[[], None]) -> None:
        """Report until cancelled."""
        ready()
        sent: tuple[Demand, ...] = ()
        sent_at = 0.0
        while True:
            await asyncio.sleep(REPORT_SECS)
            table = self._live()
            self._book.forget(table.by_key)
            demands = self._book.demands(
                claim.route.key for claims in table.warm.values() for claim in claims
            )
            if demands == sent and time.monotonic() - sent_at < HEARTBEAT_SECS:
                continue
            try:
                await self._client.report(demands)
            except Unavailable as error:
                logger.debug("demand not reported", extra={"reason": error.reason})
            else:
                sent, sent_at = demands, time.monotonic()


def _update(response: pb.WatchRoutesResponse) -> RouteUpdate:
    return RouteUpdate(
        revision=response.revision,
        is_snapshot=response.snapshot,
        upserts=tuple(_route(found) for found in response.upserts),
        removed_keys=tuple(response.removed_keys),
    )


def _route(found: pb.AppRoute) -> Route:
    return Route(
        key=found.key,
        app=AppRef(organization=OrganizationName(found.organization_name), name=found.app_name),
        organization_id=OrganizationId(found.organization_id),
        version=found.version,
        is_active=found.active,
        hostnames=tuple(found.hostnames),
        allow_unauthenticated=found.allow_unauthenticated,
        timeout_secs=found.timeout_secs,
        max_concurrency=found.max_concurrency,
        replicas=tuple(
            ready_replica(
                found.key,
                endpoint.replica_id,
                Endpoint(unix_path=endpoint.unix_path, host=endpoint.host, port=endpoint.port),
            )
            for endpoint in found.endpoints
        ),
        failure_reason=found.failure_reason,
        failure_message=found.failure_message,
    )


def _demand(demand: Demand) -> pb.AppDemand:
    return pb.AppDemand(
        key=demand.key,
        requests_per_second=demand.requests_per_second,
        in_flight=demand.in_flight,
        waiting=demand.waiting,
        completed_total=demand.completed_total,
        last_zero_ms=demand.last_zero_ms,
    )
