"""Cold apps: what the activator does with a request for an app that has no ready replica."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig, until_held, warm
from tests.support.replica import Answered, Seen, exchange

from ignite.internal.v1 import routes_pb2 as pb

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig(
        gateway={"cold_start_budget_secs": 5, "max_held_per_app": 50, "max_held": 80}
    ) as running:
        yield running


class TestHolding:
    async def test_a_request_waits_for_a_replica_and_is_served(self, rig: Rig) -> None:
        route = rig.route("sleeper")
        await rig.controllers.settle(route)
        replica = await rig.replica()
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(
                rig.get(rig.host("sleeper"), "/a//b?c=%20", method="POST", body=b"held")
            )
            await rig.controllers.wait_for(lambda: ("acme/sleeper", None) in rig.controllers.wakes)
            await rig.controllers.put(warm(route, replica))
        got = asked.result()
        assert (got.status, got.body) == (200, b"ok")
        assert got.header("x-ignite-cold-start") == "true"
        assert int(got.header("x-ignite-cold-start-wait-ms") or "") >= 0
        (seen,) = replica.seen
        assert (seen.method, seen.target, seen.body) == ("POST", "/a//b?c=%20", b"held")
        assert seen.header("x-ignite-function-id") == "acme/sleeper"
        assert seen.header("x-ignite-organization-id") == "org-acme"
        assert seen.header("x-ignite-execution-id") == got.header("x-ignite-execution-id")
        assert seen.header("x-ignite-via") is None
        assert seen.header("authorization") is None
        assert seen.header("host") == rig.host("sleeper")

    async def test_many_that_wait_wake_once(self, rig: Rig) -> None:
        route = rig.route("crowd")
        await rig.controllers.settle(route)
        replica = await rig.replica()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rig.get(rig.host("crowd"))) for _ in range(30)]
            await until_held(rig, route.key, 30)
            await rig.controllers.put(warm(route, replica))
        assert {task.result().status for task in asked} == {200}
        assert len([wake for wake in rig.controllers.wakes if wake[0] == "acme/crowd"]) == 1

    async def test_a_starting_replica_never_gets_more_than_it_may(self, rig: Rig) -> None:
        async def work(_: Seen) -> Answered:
            await asyncio.sleep(0.01)
            return Answered()

        route = rig.route("gentle", max_concurrency=3)
        await rig.controllers.settle(route)
        replica = await rig.replica(work)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rig.get(rig.host("gentle"))) for _ in range(40)]
            await until_held(rig, route.key, 40)
            await rig.controllers.put(warm(route, replica))
        assert {task.result().status for task in asked} == {200}
        assert replica.most_in_flight == 3

    async def test_beyond_the_bound_is_503_with_retry_after(self, rig: Rig) -> None:
        route = rig.route("flood")
        await rig.controllers.settle(route)
        replica = await rig.replica()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rig.get(rig.host("flood"))) for _ in range(50)]
            await until_held(rig, route.key, 50)
            got = await rig.get(rig.host("flood"))
            assert got.status == 503
            assert got.header("retry-after") == "1"
            assert got.json()["details"][0]["reason"] == "TooManyHeld"
            # A full line does not stop what is ready.
            await rig.controllers.put(warm(route, replica))
        assert {task.result().status for task in asked} == {200}

    async def test_past_the_budget_is_504(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("never"))
        began = time.monotonic()
        got = await rig.get(rig.host("never"))
        assert got.status == 504
        assert got.json()["details"][0]["reason"] == "ColdStartTimeout"
        assert 4.5 < time.monotonic() - began < 8

    async def test_a_client_that_gives_up_is_no_longer_counted(self, rig: Rig) -> None:
        route = rig.route("impatient")
        await rig.controllers.settle(route)
        asked = asyncio.ensure_future(rig.get(rig.host("impatient")))
        await until_held(rig, route.key, 1)
        asked.cancel()
        await asyncio.wait([asked])
        await until_held(rig, route.key, 0)

    async def test_the_next_request_takes_the_warm_way(self, rig: Rig) -> None:
        route = rig.route("warmed")
        await rig.controllers.settle(route)
        replica = await rig.replica()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rig.get(rig.host("warmed")))
            await rig.controllers.wait_for(lambda: ("acme/warmed", None) in rig.controllers.wakes)
            await rig.controllers.settle(warm(route, replica))
        got = await rig.get(rig.host("warmed"))
        assert got.status == 200
        assert got.header("x-ignite-cold-start") is None


class TestFailures:
    async def test_a_known_failure_is_told_at_once(self, rig: Rig) -> None:
        await rig.controllers.settle(
            rig.route("broken", failure_reason="ImagePullFailed", failure_message="no such image")
        )
        began = time.monotonic()
        got = await rig.get(rig.host("broken"))
        assert time.monotonic() - began < 2
        assert got.status == 503
        assert got.header("x-ignite-error") == "ImagePullFailed"
        body = got.json()
        assert body["message"] == "no such image"
        assert body["details"][0]["reason"] == "ImagePullFailed"

    async def test_strangers_are_not_shown_the_app_s_crash(self, rig: Rig) -> None:
        await rig.controllers.settle(
            rig.route(
                "crashed",
                allow_unauthenticated=True,
                failure_reason="CrashLoop",
                failure_message="Traceback: secret",
            )
        )
        got = await rig.get(rig.host("crashed"), token=None)
        assert got.json()["details"][0]["reason"] == "CrashLoop"
        assert b"secret" not in got.body

    async def test_a_failure_that_comes_while_waiting_ends_the_wait(self, rig: Rig) -> None:
        route = rig.route("doomed")
        await rig.controllers.settle(route)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(rig.get(rig.host("doomed")))
            await until_held(rig, route.key, 1)
            await rig.controllers.put(replace(route, failure_reason="StartTimeout"))
        assert asked.result().status == 503
        assert asked.result().json()["details"][0]["reason"] == "StartTimeout"

    async def test_a_refused_wake_is_told(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("refused"))
        before = rig.controllers.on_wake
        rig.controllers.on_wake = lambda _a, _v: pb.WakeResponse(
            ok=False, reason="QuotaReached", message="no more replicas"
        )
        try:
            got = await rig.get(rig.host("refused"))
        finally:
            rig.controllers.on_wake = before
        assert got.status == 503
        assert got.json()["details"][0]["reason"] == "QuotaReached"

    async def test_an_unknown_host_is_404(self, rig: Rig) -> None:
        got = await rig.get(rig.host("nobody"))
        assert got.status == 404
        assert got.json() | {"details": []} == {
            "code": 5,
            "message": "No app is served at this host.",
            "details": [],
        }

    async def test_a_dead_replica_in_the_table_is_passed_over(self, rig: Rig) -> None:
        dead, live = await rig.replica(), await rig.replica()
        await dead.stop()
        route = rig.route("halfdead", timeout_secs=10)
        await rig.controllers.settle(route)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rig.get(rig.host("halfdead"))) for _ in range(10)]
            await until_held(rig, route.key, 10)
            await rig.controllers.put(warm(route, dead, live))
        assert {task.result().status for task in asked} == {200}

    async def test_a_full_replica_s_request_waits_on(self, rig: Rig) -> None:
        turns = iter([True, True, False])

        async def full_twice(_: Seen) -> Answered:
            if next(turns):
                return Answered(status=503, headers=[("x-ignite-overflow", "true")])
            return Answered()

        route = rig.route("fullfirst")
        await rig.controllers.settle(route)
        replica = await rig.replica(full_twice)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(rig.get(rig.host("fullfirst"), method="POST", body=b"again"))
            await until_held(rig, route.key, 1)
            await rig.controllers.put(warm(route, replica))
        assert asked.result().status == 200
        assert [seen.body for seen in replica.seen] == [b"again"] * 3

    async def test_a_replica_that_breaks_off_is_not_asked_twice(self, rig: Rig) -> None:
        async def crash(_: Seen) -> Answered:
            raise ConnectionAbortedError

        route = rig.route("crasher")
        await rig.controllers.settle(route)
        replica = await rig.replica(crash)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(rig.get(rig.host("crasher"), method="POST", body=b"x"))
            await until_held(rig, route.key, 1)
            await rig.controllers.put(warm(route, replica))
        assert asked.result().status == 503
        assert asked.result().json()["details"][0]["reason"] == "ReplicaFailed"
        assert len(replica.seen) == 1


class TestBursts:
    async def test_what_all_replicas_refuse_is_held_and_served(self, rig: Rig) -> None:
        busy = 0

        async def two_at_once(_: Seen) -> Answered:
            nonlocal busy
            if busy >= 2:
                return Answered(status=503, headers=[("x-ignite-overflow", "true")])
            busy += 1
            await asyncio.sleep(0.02)
            busy -= 1
            return Answered()

        replica = await rig.replica(two_at_once)
        route = rig.route("burst", replica, max_concurrency=2)
        await rig.controllers.settle(route)
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(rig.get(rig.host("burst"), "/x?y", method="POST", body=b"body"))
                for _ in range(40)
            ]
        got = [task.result() for task in asked]
        assert {one.status for one in got} == {200}
        assert {one.header("x-ignite-overflow") for one in got} == {None}
        served = [seen for seen in replica.seen if seen.body == b"body"]
        assert len(served) == len(replica.seen)
        assert {seen.header("x-ignite-function-id") for seen in served} == {"acme/burst"}
        assert {seen.header("x-ignite-via") for seen in served} == {None}
        assert {seen.header("authorization") for seen in served} == {None}
        assert not [wake for wake in rig.controllers.wakes if wake[0] == "acme/burst"]

    async def test_a_dead_replica_of_a_warm_app_costs_no_request(self, rig: Rig) -> None:
        dead = await rig.replica()
        route = rig.route("dying", dead)
        await rig.controllers.settle(route)
        await dead.stop()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rig.get(rig.host("dying"))) for _ in range(5)]
            await until_held(rig, route.key, 5)
            await rig.controllers.put(warm(route, await rig.replica()))
        assert {task.result().status for task in asked} == {200}


class TestAccess:
    async def test_the_same_rules_as_for_warm_apps(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("coldguard"))
        host = rig.host("coldguard")
        two = {"acme": {"id": "org-acme"}, "other": {"id": "org-other"}}
        tokens = {
            None: 401,
            "garbage": 401,
            rig.keys.token(exp=1): 401,
            rig.keys.token(aud="other"): 401,
            rig.keys.token(organization=two): 401,
            rig.keys.token("other"): 403,
            rig.keys.token(organization={"acme": {"id": "an older acme"}}): 403,
            rig.keys.token(scope="GetApp"): 403,
        }
        for token, status in tokens.items():
            got = await rig.get(host, token=token)
            assert got.status == status, token
            assert got.json()["code"] == {401: 16, 403: 7}[status]
        assert ("acme/coldguard", None) not in rig.controllers.wakes

    async def test_nobody_can_say_that_he_came_by_the_internal_way(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("inner"))
        forged = [("x-ignite-via", "internal"), ("X_Ignite_Via", "internal")]
        got = await rig.get(rig.host("inner"), token=None, headers=forged)
        assert got.status == 401
        got = await rig.get("active.acme.inner", token=None, headers=forged)
        assert got.status == 404
        forged = [("x-ignite-function-id", "acme/inner"), ("x-ignite-function-version", "1")]
        got = await rig.get(rig.host("inner"), token=None, headers=forged)
        assert got.status == 401

    async def test_an_open_app_answers_preflights_without_waking(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("coldcors", allow_unauthenticated=True))
        asks = [("origin", "https://x.y"), ("access-control-request-method", "POST")]
        got = await rig.get(rig.host("coldcors"), method="OPTIONS", token=None, headers=asks)
        assert got.status == 200
        assert got.header("access-control-allow-origin") == "https://x.y"
        assert ("acme/coldcors", None) not in rig.controllers.wakes


class TestDemand:
    async def test_warm_requests_are_counted_and_idle_has_a_moment(self, rig: Rig) -> None:
        gate = asyncio.Event()

        async def hold(_: Seen) -> Answered:
            await gate.wait()
            return Answered()

        replica = await rig.replica(hold)
        route = rig.route("counted", replica)
        await rig.controllers.settle(route)

        def last() -> pb.AppDemand | None:
            if not rig.controllers.reports:
                return None
            found = [d for d in rig.controllers.reports[-1].demands if d.key == route.key]
            return found[0] if found else None

        def busy() -> bool:
            demand = last()
            return demand is not None and demand.in_flight == 3

        def idle() -> bool:
            demand = last()
            return demand is not None and demand.in_flight == 0 and demand.completed_total == 3

        began = time.time_ns() // 1_000_000
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(rig.get(rig.host("counted")))
            await rig.controllers.wait_for(busy)
            gate.set()
        await rig.controllers.wait_for(idle)
        demand = last()
        assert demand is not None
        assert demand.requests_per_second == pytest.approx(3 / 60)
        assert began <= demand.last_zero_ms <= time.time_ns() // 1_000_000


class TestScaleDown:
    async def test_no_request_is_lost_while_an_app_falls_asleep_and_wakes(self, rig: Rig) -> None:
        async def brief(_: Seen) -> Answered:
            await asyncio.sleep(0.005)
            return Answered()

        cold = rig.route("yoyo")
        await rig.controllers.settle(cold)
        statuses: list[int] = []
        stop = asyncio.Event()
        token = rig.keys.token()

        async def ask() -> None:
            reader, writer = await rig.connect()
            sent = [("host", rig.host("yoyo")), ("authorization", f"Bearer {token}")]
            while not stop.is_set():
                statuses.append((await exchange(reader, writer, "GET", "/", sent)).status)
            writer.close()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(ask())
            for _ in range(6):
                replica = await rig.replica(brief)
                await rig.controllers.settle(warm(cold, replica))
                await replica.wait_for(partial(replica.has_seen, 41))
                await rig.controllers.settle(cold)
                await replica.wait_for(replica.is_idle)
                before = len(replica.seen)
                await asyncio.sleep(0.05)
                assert len(replica.seen) == before
                await replica.stop()
            await rig.controllers.settle(warm(cold, await rig.replica(brief)))
            stop.set()
        assert len(statuses) > 200
        assert set(statuses) == {200}
