"""Controllers as gateways see them: the wire, the replica backend below it, and a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes.clock import loop_now
from tests.fakes.replicas import FakeDriver
from tests.support.deployments import HELLO, SETTINGS, Rig, now, rigged, until

from ignite.backends.replicas import ReplicaBackend
from ignite.controllers.autoscaler import Autoscaler
from ignite.controllers.deployments import Deployments
from ignite.controllers.route_service import RouteServicer
from ignite.controllers.routes import RouteBoard
from ignite.db.database import Database
from ignite.domain.apps import ScaleMetric, Scaling
from ignite.domain.workloads import ReplicaState
from ignite.internal.v1 import routes_pb2 as pb
from ignite.internal.v1 import routes_pb2_grpc
from ignite.rpc.server import Bind, Service, grpc_component
from ignite.settings import DatabaseSettings


@dataclass(slots=True, kw_only=True)
class Gateway:
    """A gateway's view over the wire; acknowledges every step while `acknowledges` is set."""

    stub: Any  # the stub is typed for blocking channels
    routes: dict[str, pb.AppRoute] = field(default_factory=dict)
    acknowledges: bool = True
    revision: int = 0
    snapshots: int = 0

    async def follow(self) -> None:
        request = pb.WatchRoutesRequest(gateway_id="gw", known_revision=self.revision)
        async for step in self.stub.WatchRoutes(request, wait_for_ready=True):
            if step.snapshot:
                self.routes.clear()
                self.snapshots += 1
            for key in step.removed_keys:
                self.routes.pop(key, None)
            self.routes.update({route.key: route for route in step.upserts})
            self.revision = step.revision
            if self.acknowledges:
                await self.acknowledge()

    async def acknowledge(self) -> None:
        await self.stub.AckRoutes(pb.AckRoutesRequest(gateway_id="gw", revision=self.revision))

    def active(self) -> pb.AppRoute | None:
        """Return the route that host names lead to."""
        found = [route for route in self.routes.values() if route.hostnames]
        assert len(found) <= 1, "a host name leads to one version"
        return found[0] if found else None

    def endpoints(self) -> list[str]:
        route = self.active()
        return [one.replica_id for one in route.endpoints] if route is not None else []


@asynccontextmanager
async def serving(
    database: Database, driver: FakeDriver, socket: Path, *, ack_timeout_secs: float = 1
) -> AsyncIterator[RouteBoard]:
    """Run a controllers process: all components and the wire."""
    board = RouteBoard(ack_timeout_secs=ack_timeout_secs)
    backend = ReplicaBackend(driver, board, now=loop_now, stop_grace_secs=30)
    autoscaler = Autoscaler(now=now, interval_secs=0.05)
    deployments = Deployments(database, backend, board, autoscaler, SETTINGS, now=now)
    wire = grpc_component(
        name="controllers",
        binds=[Bind.unix(socket)],
        services=[
            Service(
                name="dodil.ignite.internal.v1.RouteService",
                add=routes_pb2_grpc.add_RouteServiceServicer_to_server,
                servicer=RouteServicer(board, deployments, autoscaler),
            )
        ],
        auth=None,
    )
    async with AsyncExitStack() as stack:
        for component in (backend, autoscaler, deployments, wire):
            ready = asyncio.Event()
            task = asyncio.ensure_future(component.run(ready.set))
            stack.push_async_callback(_end, task)
            up = asyncio.ensure_future(ready.wait())
            await asyncio.wait([up, task], timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert up.done(), task
        yield board


async def _end(task: "asyncio.Task[None]") -> None:
    was_done = task.done()
    task.cancel()
    await asyncio.wait([task])
    assert not was_done, task


@asynccontextmanager
async def connected(socket: Path) -> AsyncIterator[Gateway]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        gateway = Gateway(stub=routes_pb2_grpc.RouteServiceStub(channel))
        following = asyncio.ensure_future(gateway.follow())
        try:
            yield gateway
        finally:
            following.cancel()
            await asyncio.wait([following])


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url, is_started=False) as rig:
        await rig.create()
        yield rig


@pytest.fixture
def socket(short_folder: Path) -> Path:
    return short_folder / "s"


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("w")


async def test_a_replica_is_stopped_only_after_the_gateway_has_let_go_of_it(
    rig: Rig, socket: Path
) -> None:
    driver = FakeDriver()
    patient = serving(rig.database, driver, socket, ack_timeout_secs=600)
    async with patient as board, connected(socket) as gateway:
        # None of an earlier process is waited for.
        board._gateways.pop("(before this process)")
        await rig.live(b"one")
        await until(lambda: len(gateway.endpoints()) == 1)
        old = gateway.endpoints()[0]
        gateway.acknowledges = False
        await rig.live(b"two")
        await until(lambda: gateway.endpoints() not in ([], [old]))
        await asyncio.sleep(0.3)
        assert driver.stops == []
        assert old in driver.replicas
        await gateway.acknowledge()
        await until(lambda: [stop[0] for stop in driver.stops] == [old])
        assert {route.version for route in gateway.routes.values()} == {2}


async def test_a_gateway_that_hangs_holds_nothing_up_for_ever(rig: Rig, socket: Path) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await rig.live(b"one")
        await until(lambda: len(gateway.endpoints()) == 1)
        gateway.acknowledges = False
        await rig.apps.delete(HELLO)
        await until(lambda: not driver.replicas)


async def test_a_restart_of_controllers_keeps_replicas_and_routes(rig: Rig, socket: Path) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await rig.live()
        await until(lambda: len(gateway.endpoints()) == 1)
        before = gateway.endpoints()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await until(lambda: gateway.snapshots == 1)
        assert gateway.endpoints() == before
        await asyncio.sleep(0.5)
        assert gateway.endpoints() == before
        assert driver.stops == []
        assert len(driver.specs) == 1


async def test_replicas_lost_with_the_spawner_are_started_again(rig: Rig, socket: Path) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await rig.live()
        await until(lambda: len(gateway.endpoints()) == 1)
        before = gateway.endpoints()
        driver.leave()
        driver.is_away = False
        await until(lambda: len(gateway.endpoints()) == 1 and gateway.endpoints() != before)
        assert gateway.routes[next(iter(gateway.routes))].failure_reason == ""


async def test_a_spawner_that_is_away_during_a_publish_fails_nothing(
    rig: Rig, socket: Path
) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket):
        driver.leave()
        await rig.publish(b"one")
        await asyncio.sleep(1.5)
        app = await rig.app()
        assert (app.target_version, app.error_reason) == (1, "")
        driver.is_away = False
        await rig.until_active(1)


async def test_a_wake_says_what_is_so(rig: Rig, socket: Path) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await rig.live()
        await until(lambda: len(gateway.endpoints()) == 1)
        request = pb.WakeRequest(organization_name="acme", app_name="hello")
        answer = await gateway.stub.Wake(request)
        assert (answer.ok, answer.key) == (True, next(iter(gateway.routes)))
        request = pb.WakeRequest(organization_name="acme", app_name="other")
        answer = await gateway.stub.Wake(request)
        assert (answer.ok, answer.reason) == (False, "AppNotFound")
        request = pb.WakeRequest(organization_name="acme", app_name="hello", version=9)
        answer = await gateway.stub.Wake(request)
        assert (answer.ok, answer.reason) == (False, "VersionNotReady")


async def test_waiting_requests_are_demand(rig: Rig, socket: Path) -> None:
    driver = FakeDriver()
    async with serving(rig.database, driver, socket), connected(socket) as gateway:
        await rig.live()
        await until(lambda: len(gateway.endpoints()) == 1)
        await rig.configure(scaling=_concurrency_of(2))
        demand = pb.AppDemand(key=next(iter(gateway.routes)), in_flight=2, waiting=3)

        async def reported() -> bool:
            await gateway.stub.ReportDemand(
                pb.ReportDemandRequest(gateway_id="gw", demands=[demand])
            )
            return len(gateway.endpoints()) == 3

        await until(reported)
        assert len(driver.of(demand.key, ReplicaState.READY)) == 3


async def test_an_unknown_app_while_the_database_is_away_is_unavailable(socket: Path) -> None:
    database = Database("postgresql://nobody@/none?host=/nowhere", DatabaseSettings())
    board, autoscaler = RouteBoard(), Autoscaler(now=now, interval_secs=1)
    backend = ReplicaBackend(FakeDriver(), board, now=loop_now, stop_grace_secs=30)
    deployments = Deployments(database, backend, board, autoscaler, SETTINGS, now=now)
    wire = grpc_component(
        name="controllers",
        binds=[Bind.unix(socket)],
        services=[
            Service(
                name="dodil.ignite.internal.v1.RouteService",
                add=routes_pb2_grpc.add_RouteServiceServicer_to_server,
                servicer=RouteServicer(board, deployments, autoscaler),
            )
        ],
        auth=None,
    )
    ready = asyncio.Event()
    task = asyncio.ensure_future(wire.run(ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 20)
        async with connected(socket) as gateway:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.stub.Wake(pb.WakeRequest(organization_name="acme", app_name="x"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await _end(task)
        await database.close()


def _concurrency_of(threshold: int) -> Scaling:
    return Scaling(scale_metric=ScaleMetric.CONCURRENCY, scale_threshold=threshold)
