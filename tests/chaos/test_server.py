"""The whole server, or the door to it, dies: what was accepted is there again."""

import asyncio
import signal
import time

from tests.chaos.apps import App, Part, wait_for
from tests.chaos.conftest import MakeApp, Show
from tests.chaos.load import Load, Report, loaded
from tests.chaos.test_changes import flow
from tests.e2e.server import STOP_SECS, Server, processes_of


class TestServer:
    async def test_everything_published_is_served_after_kill_9(
        self, fresh: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        await asyncio.to_thread(fresh.start)
        apps = [await asyncio.to_thread(make_app, fresh, name) for name in ("one", "two")]
        await asyncio.to_thread(apps[1].publish, "2")
        async with loaded(apps[0].target, rate=rate) as load:
            await flow(load, secs / 2)
            await asyncio.to_thread(fresh.kill)
        died_at = max(call.done_at for call in load.report.ok)
        load.report.check(may_fail=[c for c in load.report.calls if c.done_at >= died_at - 0.1])
        await asyncio.to_thread(wait_for, lambda: not processes_of(fresh.data), secs=STOP_SECS)
        await asyncio.to_thread(fresh.start)
        back = [App(fresh, app.name) for app in apps]
        for app, version in zip(back, ("1", "2"), strict=True):
            async with loaded(app.target, rate=rate / 2) as load:
                await flow(load, secs / 2)
            show(load.report)
            load.report.check()
            assert set(load.report.versions) == {version}
            state = await asyncio.to_thread(app.state)
            assert state.active_version == state.target_version == int(version)
            assert not state.last_error
            app.close()

    async def test_publish_that_was_accepted_is_carried_out_after_kill_9(
        self, fresh: Server, make_app: MakeApp, show: Show
    ) -> None:
        await asyncio.to_thread(fresh.start)
        app = await asyncio.to_thread(make_app, fresh, "accepted")
        number = await asyncio.to_thread(app.begin_publish, "2")
        await asyncio.to_thread(fresh.kill)
        await asyncio.to_thread(wait_for, lambda: not processes_of(fresh.data), secs=STOP_SECS)
        await asyncio.to_thread(fresh.start)
        back = App(fresh, "accepted")
        await asyncio.to_thread(wait_for, lambda: back.state().active_version == number)
        async with loaded(back.target, rate=0) as load:
            await load.wait_for(load.send())
        back.close()
        show(load.report)
        load.report.check()
        assert set(load.report.versions) == {"2"}


class TestEnvoy:
    async def test_death_of_envoy_costs_its_connections_and_new_ones_are_served_again(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "envoy")
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs / 2)
            part = await asyncio.to_thread(Part, server, "envoy")
            died_at = time.monotonic()
            part.signal(signal.SIGKILL)
            await asyncio.to_thread(wait_for, part.is_back)
            await served_again(load, died_at)
            back_at = time.monotonic()
            await flow(load, secs)
        show(load.report)
        lost = [call for call in load.report.failed if died_at - 1.0 < call.sent_at < back_at]
        load.report.check(may_fail=lost)
        assert all(call.status == 0 for call in lost), "an answer that Envoy made before it knew"


async def served_again(load: Load, since: float) -> None:
    """Wait for an answer to a request that was sent after a moment."""

    def is_so(report: Report) -> bool:
        return any(call.sent_at > since + 0.5 for call in report.ok)

    await load.until(is_so)
