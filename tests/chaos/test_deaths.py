"""Parts of the server die under load: what a dead part carried may be lost, nothing else.

No request passes through api, controllers, Postgres or OpenBao on its way to a warm app, so none
of them may cost one. The gateway answers cold requests alone. A replica's death costs what it had.
"""

import asyncio
import signal
import time

import grpc
import pytest
from tests.chaos.apps import App, Part, wait_for
from tests.chaos.conftest import LONG_SECS, MakeApp, Show
from tests.chaos.load import Call, Report, loaded
from tests.chaos.test_changes import check_runs, flow
from tests.e2e.server import Server


class TestReplica:
    async def test_crash_in_one_request_costs_only_what_was_in_flight_on_that_replica(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "crash")
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs)
            crash = load.send("exit=9")
            await load.wait_for(crash)
            await flow(load, secs)
        show(load.report)
        load.report.check(may_fail=[crash, *under_way(load.report, crash.sent_at, crash.done_at)])
        assert crash.status == 503
        check_runs(app, load.report)
        assert len(load.report.replicas) >= 2

    async def test_crash_of_one_of_three_is_taken_by_the_others(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        reserved = {"max_replicas": 3, "reserved_capacity": 3}
        app = await asyncio.to_thread(lambda: make_app(server, "crash3", **reserved))
        await asyncio.to_thread(app.ready, 3)
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs / 2)
            crash = load.send("exit=9")
            await load.wait_for(crash)
            await flow(load, secs)
        show(load.report)
        lost = under_way(load.report, crash.sent_at, crash.done_at)
        load.report.check(may_fail=[crash, *lost])
        check_runs(app, load.report)
        await asyncio.to_thread(app.ready, 3)


def under_way(report: Report, begin: float, end: float) -> list[Call]:
    """Return what was at a replica at any time of a span."""
    return [call for call in report.calls if call.sent_at <= end and call.done_at >= begin]


class TestRole:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
    @pytest.mark.parametrize("role", ["api", "controllers", "gateway"])
    async def test_restart_of_a_role_costs_no_request_of_a_warm_app(
        self,
        server: Server,
        warm: App,
        show: Show,
        rate: float,
        secs: float,
        role: str,
        number: signal.Signals,
    ) -> None:
        async with loaded(warm.target, rate=rate) as load:
            await flow(load, secs / 2)
            part = await asyncio.to_thread(Part, server, role)
            part.signal(number)
            await asyncio.to_thread(wait_for, part.is_back)
            await flow(load, secs)
        show(load.report)
        load.report.check()
        check_runs(warm, load.report)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
    @pytest.mark.parametrize("role", ["controllers"] if not LONG_SECS else ["api", "controllers"])
    async def test_restart_of_a_role_costs_no_request_that_waits_for_a_start(
        self, server: Server, warm: App, show: Show, role: str, number: signal.Signals
    ) -> None:
        await asyncio.to_thread(warm.asleep)
        async with loaded(warm.target, rate=0) as load:
            part = await asyncio.to_thread(Part, server, role)
            part.signal(number)
            for _ in range(20):
                load.send()
            await load.until(lambda report: all(call.done_at for call in report.calls))
            await asyncio.to_thread(wait_for, part.is_back)
        show(load.report)
        load.report.check()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
    async def test_requests_to_a_cold_app_after_the_gateway_ended_wait_for_its_return(
        self, server: Server, warm: App, show: Show, number: signal.Signals
    ) -> None:
        await asyncio.to_thread(warm.asleep)
        async with loaded(warm.target, rate=0) as load:
            part = await asyncio.to_thread(Part, server, "gateway")
            part.signal(number)
            await asyncio.sleep(0.2)
            for _ in range(20):
                load.send()
            await load.until(lambda report: all(call.done_at for call in report.calls))
            await asyncio.to_thread(wait_for, part.is_back)
        show(load.report)
        load.report.check()


class TestStore:
    @pytest.mark.parametrize("program", ["postgres", "bao"])
    async def test_death_of_a_store_costs_no_request_of_a_warm_app(
        self,
        server: Server,
        warm: App,
        show: Show,
        rate: float,
        secs: float,
        program: str,
    ) -> None:
        async with loaded(warm.target, rate=rate) as load:
            await flow(load, secs / 2)
            part = await asyncio.to_thread(Part, server, program)
            part.signal(signal.SIGKILL)
            await asyncio.to_thread(wait_for, part.is_back)
            await flow(load, secs)
        show(load.report)
        load.report.check()
        await asyncio.to_thread(wait_for, lambda: answers(warm))


def answers(app: App) -> bool:
    """Tell whether the control plane answers."""
    try:
        app.exists()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


class TestSpawner:
    async def test_death_of_the_spawner_costs_what_its_replicas_had_and_others_are_started(
        self, server: Server, warm: App, show: Show, rate: float, secs: float
    ) -> None:
        async with loaded(warm.target, rate=rate) as load:
            await flow(load, secs / 2)
            part = await asyncio.to_thread(Part, server, "spawner")
            died_at = time.monotonic()
            part.signal(signal.SIGKILL)
            await asyncio.to_thread(wait_for, part.is_back)
            await flow(load, secs)
        show(load.report)
        lost = under_way(load.report, died_at, died_at + 0.1)
        load.report.check(may_fail=lost)
        # What replicas wrote at last dies with the spawner, which reads it.
        check_runs(warm, load.report, lost_lines=int(rate))
        # More than one new one where the requests that waited were demand for it.
        assert len(load.report.replicas) >= 2


@pytest.fixture
def warm(server: Server, make_app: MakeApp) -> App:
    """An app that others of this file may have used before."""
    app = App(server, "warm")
    wait_for(lambda: answers(app))
    return app if app.exists() else make_app(server, "warm")
