"""Scale to zero and from zero: no decision about replicas costs a request."""

import asyncio
import json

from tests.chaos.apps import ONE_REPLICA, App, wait_for
from tests.chaos.conftest import LONG_SECS, MakeApp, Show
from tests.chaos.load import loaded
from tests.chaos.test_changes import check_runs
from tests.e2e.server import Server

from ignite.v1.ignite_common_pb2 import SCALE_METRIC_CONCURRENCY

BURST = 20
OFFSETS = (0.0, 0.03, 0.1) if not LONG_SECS else (0.0, 0.01, 0.03, 0.06, 0.1, 0.2)


class TestToZero:
    async def test_burst_at_the_moment_of_scale_to_zero_is_answered(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        apps = [
            await asyncio.to_thread(make_app, server, f"burst{number}")
            for number in range(len(OFFSETS))
        ]
        async with asyncio.TaskGroup() as group:
            for app, offset in zip(apps, OFFSETS, strict=True):
                group.create_task(self._bursts(app, offset, show))

    async def _bursts(self, app: App, offset: float, show: Show) -> None:
        async with loaded(app.target, rate=0) as load:
            for _ in range(1 + int(LONG_SECS / 4)):
                await load.wait_for(load.send())
                log = ScaleLog(app)
                await asyncio.to_thread(wait_for, log.tells_of_scale_to_zero)
                await asyncio.sleep(offset)
                calls = [load.send() for _ in range(BURST)]
                for call in calls:
                    await load.wait_for(call)
        show(load.report)
        load.report.check()
        check_runs(app, load.report)

    async def test_request_that_is_longer_than_the_idle_period_is_not_cut(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "long")
        secs = 75.0 if LONG_SECS else 5.0
        async with loaded(app.target, rate=0) as load:
            await load.wait_for(load.send())
            await load.wait_for(load.send(f"secs={secs}"))
        show(load.report)
        load.report.check()
        assert len(load.report.replicas) == 1

    async def test_long_request_on_a_replica_that_is_scaled_in_is_finished(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        reserved = {"max_replicas": 3, "reserved_capacity": 3}
        app = await asyncio.to_thread(lambda: make_app(server, "surplus", **reserved))
        await asyncio.to_thread(app.ready, 3)
        async with loaded(app.target, rate=0) as load:
            calls = [load.send("secs=4") for _ in range(12)]
            await asyncio.sleep(0.5)
            scaling = {**ONE_REPLICA, "max_replicas": 3, "reserved_capacity": 1}
            await asyncio.to_thread(lambda: app.configure("scaling", scaling=scaling))
            for call in calls:
                await load.wait_for(call)
        show(load.report)
        load.report.check()
        assert len(load.report.replicas) == 3
        await asyncio.to_thread(app.ready, 1)


class TestFromZero:
    async def test_stampede_on_a_cold_app_is_answered_whole_by_one_start(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        app = await asyncio.to_thread(lambda: make_app(server, "stampede", max_replicas=1))
        await asyncio.to_thread(app.asleep)
        started = len(starts(app))
        async with loaded(app.target, rate=0) as load:
            for _ in range(200):
                load.send()
            await load.until(lambda report: all(call.done_at for call in report.calls))
        show(load.report)
        load.report.check()
        check_runs(app, load.report)
        assert len(load.report.replicas) == 1
        assert len(starts(app)) == started + 1

    async def test_burst_on_a_cold_app_starts_no_more_than_its_most_replicas(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        scaling = {"max_replicas": 5, "scale_metric": SCALE_METRIC_CONCURRENCY}
        app = await asyncio.to_thread(
            lambda: make_app(server, "most", **scaling, scale_threshold=10)
        )
        await asyncio.to_thread(app.asleep)
        started = starts(app)
        async with loaded(app.target, rate=0) as load:
            # Long enough that the autoscaler looks while they wait.
            for _ in range(200):
                load.send("secs=3")
            await load.until(lambda report: all(call.done_at for call in report.calls))
        show(load.report)
        load.report.check()
        assert 2 <= len(starts(app) - started) <= 5
        assert 2 <= len(load.report.replicas) <= 5

    async def test_request_after_idling_is_answered_at_any_age_of_the_idleness(
        self, server: Server, make_app: MakeApp, show: Show
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "idle")
        async with loaded(app.target, rate=0) as load:
            # Envoy's own idle timeout of a replica's connection is a minute.
            for pause in (2.0, 2.3, 2.8, *((65.0,) if LONG_SECS else ())):
                await load.wait_for(load.send())
                await asyncio.sleep(pause)
            await load.wait_for(load.send())
        show(load.report)
        load.report.check()


class ScaleLog:
    """The controllers' log from now on: it names the moment of a decision."""

    def __init__(self, app: App) -> None:
        self._path = app.server.data / "logs" / "controllers.log"
        self._from = self._path.stat().st_size
        self._workload = f"{app.server.org}/{app.name}@"

    def tells_of_scale_to_zero(self) -> bool:
        """Tell whether the app was scaled to zero since."""
        with self._path.open("rb") as file:
            file.seek(self._from)
            lines = file.read().decode().splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.endswith("\n") and '"scale"' in line]
        return any(
            entry["to"] == 0 and entry["workload"].startswith(self._workload) for entry in told
        )


def starts(app: App) -> set[str]:
    """Return the replicas that were ever started."""
    return {folder.name for folder in (app.server.data / "replicas").glob(f"{app.name}-*")}
