"""What survives when parts of the gateway, or what it leans on, go and come back."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.support.envoy import Rig, needs_envoy, running_rig, until
from tests.support.replica import Answered, Seen, exchange

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationName
from ignite.gateway.table import load, ready_replica
from ignite.ports.dispatch import Call

pytestmark = needs_envoy


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as running:
        yield running


class Traffic:
    """Requests without a pause on kept connections; `statuses` is what came back."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig = rig
        self._name = name
        self._stop = asyncio.Event()
        self.statuses: list[int] = []

    async def run(self) -> None:
        reader, writer = await self._rig.connect()
        token = self._rig.keys.token()
        sent = [("host", self._rig.host(self._name)), ("authorization", f"Bearer {token}")]
        while not self._stop.is_set():
            self.statuses.append((await exchange(reader, writer, "GET", "/", sent)).status)
        writer.close()

    def stop(self) -> None:
        self._stop.set()

    async def more(self, number: int) -> None:
        wanted = len(self.statuses) + number
        await until(lambda: len(self.statuses) >= wanted)


async def test_warm_traffic_does_not_notice_a_restart_of_the_gateway(rig: Rig) -> None:
    replica = await rig.replica()
    await rig.controllers.settle(rig.route("steady", replica))
    traffic = Traffic(rig, "steady")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.run())
        await traffic.more(20)
        await rig.stop_gateway()
        await traffic.more(20)
        await rig.start_gateway()
        await traffic.more(20)
        other = await rig.replica()
        await rig.controllers.settle(rig.route("later", other))
        await traffic.more(20)
        traffic.stop()
    assert set(traffic.statuses) == {200}
    assert replica.connections == 1
    assert (await rig.get(rig.host("later"))).status == 200


async def test_envoy_is_told_nothing_new_after_a_restart_of_the_gateway(rig: Rig) -> None:
    await rig.controllers.settle(rig.route("known", await rig.replica()))
    await rig.stop_gateway()
    _, before = await rig.admin.get("/stats?filter=listener_manager.lds.update_success")
    await rig.start_gateway()
    await rig.controllers.settle(rig.route("fresh", await rig.replica()))
    _, dump = await rig.admin.get("/stats?filter=listener_manager.listener_modified")
    assert before
    assert dump.split()[-1] == b"0"


async def test_a_request_that_waits_outlives_a_restart_of_the_gateway(rig: Rig) -> None:
    route = rig.route("held")
    await rig.controllers.settle(route)
    replica = await rig.replica()
    asked = asyncio.ensure_future(rig.get(rig.host("held"), method="POST", body=b"held"))
    await rig.controllers.wait_for(lambda: len(rig.controllers.wakes) == 1)
    await rig.stop_gateway()
    await rig.start_gateway()
    await rig.controllers.wait_for(lambda: len(rig.controllers.wakes) == 2)
    ready = ready_replica(route.key, "r", replica.endpoint)
    await rig.controllers.put(replace(route, replicas=(ready,)))
    got = await asked
    assert got.status == 200
    assert [seen.body for seen in replica.seen] == [b"held"]


async def test_a_relay_under_way_ends_before_the_gateway_does(rig: Rig) -> None:
    gate = asyncio.Event()

    async def hold(_: Seen) -> Answered:
        await gate.wait()
        return Answered()

    route = rig.route("finishing")
    await rig.controllers.settle(route)
    replica = await rig.replica(hold)
    asked = asyncio.ensure_future(rig.get(rig.host("finishing")))
    await rig.controllers.wait_for(lambda: len(rig.controllers.wakes) == 1)
    ready = ready_replica(route.key, "r", replica.endpoint)
    await rig.controllers.put(replace(route, replicas=(ready,)))
    await replica.wait_for(lambda: replica.in_flight == 1)
    stopping = asyncio.ensure_future(rig.stop_gateway())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    gate.set()
    assert (await asked).status == 200
    await stopping
    await rig.start_gateway()


async def test_the_last_table_serves_while_controllers_are_away(rig: Rig) -> None:
    await rig.controllers.settle(rig.route("kept", await rig.replica()))
    await until(lambda: bool(load(rig.layout.gateway).by_key))
    await rig.stop_gateway()
    rig.layout.controllers_socket.unlink()
    await rig.stop_envoy()
    await rig.start_gateway()
    await rig.start_envoy()
    assert (await rig.get(rig.host("kept"))).status == 200
    # It may be newer than the table that was kept.
    unknown = await rig.get(rig.host("other"))
    assert (unknown.status, dict(unknown.headers)["x-ignite-error"]) == (503, "RoutesUnknown")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_envoy_comes_back_with_everything(rig: Rig, number: int) -> None:
    await rig.controllers.settle(rig.route("back", await rig.replica()))
    assert (await rig.get(rig.host("back"))).status == 200
    await rig.stop_envoy(number)
    await rig.start_envoy()
    # The keys of tokens are fetched anew; until then nobody is let in.
    for _ in range(100):
        if (await rig.get(rig.host("back"))).status == 200:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("Envoy did not learn the keys again")
    revision = await rig.controllers.put(rig.route("more", await rig.replica()))
    await rig.controllers.wait_acknowledged(revision)


async def test_calls_of_our_own_go_on_after_a_restart_of_envoy(rig: Rig) -> None:
    await rig.controllers.settle(rig.route("inner", await rig.replica()))
    call = Call(
        app=AppRef(organization=OrganizationName("acme"), name="inner"),
        version=None,
        execution_id="exec_1",
        method="GET",
        target="/",
        headers=(),
        body=b"",
        deadline_secs=20,
    )
    for _ in range(2):
        async with rig.dispatcher.dispatch(call) as reply:
            assert [chunk async for chunk in reply.body()] == [b"ok"]
        await rig.stop_envoy(signal.SIGKILL)
        starting = asyncio.ensure_future(rig.start_envoy())
        async with rig.dispatcher.dispatch(call) as reply:
            assert reply.status == 200
        await starting


async def test_changes_are_not_acknowledged_while_envoy_cannot_have_them(rig: Rig) -> None:
    replica = await rig.replica()
    await rig.controllers.settle(rig.route("acked", replica))
    assert rig.envoy is not None
    rig.envoy.send_signal(signal.SIGSTOP)
    revision = await rig.controllers.put(rig.route("acked"))
    with pytest.raises(TimeoutError):
        await rig.controllers.wait_acknowledged(revision, timeout=0.7)
    rig.envoy.send_signal(signal.SIGCONT)
    await rig.controllers.wait_acknowledged(revision)
