"""What an operator changes while requests come: no request is lost, doubled or misrouted."""

import asyncio
import json
import time
from collections import Counter
from functools import partial

import pytest
from tests.chaos.apps import ONE_REPLICA, App
from tests.chaos.conftest import MakeApp, Show
from tests.chaos.load import Call, Load, Report, loaded
from tests.e2e.server import Server

FLIP_SECS = 0.1


async def flow(load: Load, secs: float) -> None:
    """Let requests come for a while, and be answered."""
    ends = time.monotonic() + secs
    await load.until(lambda report: any(call.sent_at >= ends for call in report.ok))


def check_runs(app: App, report: Report, *, lost_lines: int = 0) -> None:
    """Assert that the replicas together ran every request once, by what they wrote down."""
    runs = Counter(app.runs())
    doubled = [nonce for nonce, times in runs.items() if times > 1]
    assert not doubled, f"run by two replicas: {sorted(doubled)[:5]}"
    silent = {call.nonce for call in report.ok} - runs.keys()
    assert len(silent) <= lost_lines, f"answered, but never run: {sorted(silent)[:5]}"


class TestVersions:
    async def test_publish_moves_every_request_to_the_new_version_and_loses_none(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "publish")
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs)
            active_at = await asyncio.to_thread(app.publish, "2")
            await flow(load, secs)
        show(load.report)
        load.report.check()
        check_runs(app, load.report)
        assert set(load.report.versions) == {"1", "2"}
        assert versions_after(load.report, active_at) == {"2"}

    async def test_rollback_serves_every_new_request_within_100_ms(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "rollback")
        await asyncio.to_thread(app.publish, "2")
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs)
            active_at = await asyncio.to_thread(app.rollback, 1)
            await flow(load, secs)
        show(load.report)
        load.report.check()
        assert set(load.report.versions) == {"2", "1"}
        assert versions_after(load.report, active_at) == {"1"}


def versions_after(report: Report, moment: float) -> set[str]:
    """Return who answered requests that were sent a flip after `moment`."""
    return {call.said["version"] for call in report.since(moment + FLIP_SECS)}


class TestConfig:
    @pytest.mark.parametrize(
        ("paths", "fields"),
        [
            (("env",), {"env": {"MARK": "new"}}),
            (("limits",), {"limits": {"memory_mb": 192, "timeout_secs": 120}}),
            ((), {"max_concurrency": 7}),
        ],
        ids=["env", "limits", "max_concurrency"],
    )
    async def test_change_of_config_is_rolled_out_without_a_gap(
        self,
        server: Server,
        make_app: MakeApp,
        show: Show,
        rate: float,
        secs: float,
        paths: tuple[str, ...],
        fields: dict[str, object],
        request: pytest.FixtureRequest,
    ) -> None:
        name = request.node.callspec.id.replace("_", "-")
        app = await asyncio.to_thread(make_app, server, name)
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs)
            before = set(load.report.replicas)
            await asyncio.to_thread(partial(app.configure, *paths, **fields))
            await load.until(lambda report: bool(set(report.replicas) - before))
            await flow(load, secs)
        show(load.report)
        load.report.check()
        check_runs(app, load.report)
        last = load.report.since(time.monotonic() - secs / 2)
        assert not before & {call.said["replica"] for call in last}

    async def test_change_of_reserved_capacity_adds_and_takes_replicas_without_a_gap(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "reserved", max_replicas=3)
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs / 2)
            for reserved in (3, 1):
                scaling = {**ONE_REPLICA, "max_replicas": 3, "reserved_capacity": reserved}
                await asyncio.to_thread(partial(app.configure, "scaling", scaling=scaling))
                await asyncio.to_thread(app.ready, reserved)
                await flow(load, secs / 2)
        show(load.report)
        load.report.check()
        check_runs(app, load.report)
        assert len(load.report.replicas) == 3


class TestDelete:
    async def test_delete_under_load_answers_200_before_and_404_after(
        self, server: Server, make_app: MakeApp, show: Show, rate: float, secs: float
    ) -> None:
        app = await asyncio.to_thread(make_app, server, "deleted")
        async with loaded(app.target, rate=rate) as load:
            await flow(load, secs / 2)
            deleted_at = await asyncio.to_thread(app.delete)
            await load.until(lambda report: sum(c.status == 404 for c in report.calls) > rate)
        show(load.report)
        report = load.report
        gone = [call for call in report.failed if call.status == 404]
        report.check(may_fail=gone)
        assert {reason_of(call) for call in gone} <= {"HostNotFound", "AppNotFound"}
        first = min(call.sent_at for call in gone)
        assert first < deleted_at + 5.0
        assert all(call.status == 404 for call in report.calls if call.sent_at > first + FLIP_SECS)


def reason_of(call: Call) -> str:
    """Return the reason word of an error's body."""
    reason: str = json.loads(call.text)["details"][0]["reason"]
    return reason
