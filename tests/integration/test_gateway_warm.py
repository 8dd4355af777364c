"""Warm apps: what Envoy does by itself with a request for an app that has ready replicas."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.replica import Answered, Seen, exchange

from ignite.domain.workloads import Endpoint

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as running:
        yield running


class TestForwarding:
    async def test_path_query_method_and_body_arrive_verbatim(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("verbatim", replica))
        target = "/a//b/./c%2Fd/..%2e/%zz;p=1?x=1&y=%20&&z"
        got = await rig.get(
            rig.host("verbatim"), target, method="PUT", body=b"\x00\xffbody",
            headers=[("x-mine", "1"), ("x-request-id", "mine")],
        )  # fmt: skip
        assert (got.status, got.body) == (200, b"ok")
        (seen,) = replica.seen
        assert (seen.method, seen.target, seen.body) == ("PUT", target, b"\x00\xffbody")
        assert seen.header("x-mine") == "1"
        assert seen.header("x-request-id") == "mine"
        assert seen.header("host") == rig.host("verbatim")

    async def test_port_in_host_does_not_change_the_app(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("ported", replica))
        got = await rig.get(f"{rig.host('ported').upper()}:8080")
        assert got.status == 200
        assert replica.seen[0].header("host") == f"{rig.host('ported').upper()}:8080"

    async def test_status_headers_and_trailers_come_back(self, rig: Rig) -> None:
        async def answer(_: Seen) -> Answered:
            return Answered(
                status=418,
                headers=[("x-app", "yes"), ("server", "mine/1")],
                body=[b"a", b"b"],
                trailers=[("x-sum", "2")],
            )

        replica = await rig.replica(answer)
        await rig.controllers.settle(rig.route("answers", replica))
        got = await rig.get(rig.host("answers"))
        assert (got.status, got.body) == (418, b"ab")
        assert got.header("x-app") == "yes"
        assert got.header("server") == "mine/1"
        assert got.trailers == [("x-sum", "2")]

    async def test_request_trailers_reach_the_replica(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("reqtrail", replica))
        reader, writer = await rig.connect()
        writer.write(
            (
                f"POST / HTTP/1.1\r\nhost: {rig.host('reqtrail')}\r\n"
                f"authorization: Bearer {rig.keys.token()}\r\ntransfer-encoding: chunked\r\n\r\n"
                "3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n"
            ).encode()
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert replica.seen[0].body == b"abc"
        assert replica.seen[0].trailers == [("x-sum", "3")]

    async def test_connections_to_a_replica_are_kept(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("kept", replica))
        for _ in range(5):
            await rig.get(rig.host("kept"))
        assert replica.connections == 1

    async def test_replica_on_an_address_is_reached(self, rig: Rig) -> None:
        replica = await rig.replica(tcp=True)
        await rig.controllers.settle(rig.route("address", replica))
        assert (await rig.get(rig.host("address"))).status == 200


class TestIdentityHeaders:
    async def test_ours_are_set_and_a_client_cannot_send_them(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("ids", replica))
        forged = [
            ("x-ignite-execution-id", "exec_forged"),
            ("x-ignite-function-id", "evil/app"),
            ("X-Ignite-Organization-Id", "evil"),
            ("x_ignite_function_id", "evil/app"),
            ("x-ignite-anything", "evil"),
            ("x-organization-name", "evil"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
        ]
        got = await rig.get(rig.host("ids"), headers=forged)
        (seen,) = replica.seen
        assert seen.header("x-ignite-function-id") == "acme/ids"
        assert seen.header("x-ignite-organization-id") == "org-acme"
        execution = seen.header("x-ignite-execution-id")
        assert execution is not None
        assert uuid.UUID(execution.removeprefix("exec_"))
        assert not [name for name, value in seen.headers if "evil" in value or "forged" in value]
        assert not [name for name, _ in seen.headers if name.startswith("x-envoy-")]
        assert got.header("x-ignite-execution-id") == execution

    async def test_the_token_stays_at_the_gateway(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("notoken", replica))
        await rig.get(rig.host("notoken"))
        assert replica.seen[0].header("authorization") is None

    async def test_an_app_cannot_pass_for_the_gateway(self, rig: Rig) -> None:
        async def answer(_: Seen) -> Answered:
            return Answered(status=503, headers=[("x-ignite-error", "Forged")])

        replica = await rig.replica(answer)
        await rig.controllers.settle(rig.route("forger", replica))
        got = await rig.get(rig.host("forger"))
        assert (got.status, got.body) == (503, b"ok")
        assert got.header("x-ignite-error") is None


class TestAccess:
    async def test_without_a_token_is_401(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("guard", await rig.replica()))
        got = await rig.get(rig.host("guard"), token=None)
        assert got.status == 401
        assert got.json()["code"] == 16

    @pytest.mark.parametrize(
        "claims",
        [{"exp": 1}, {"iss": "http://evil"}, {"aud": "other"}],
        ids=["expired", "other issuer", "other audience"],
    )
    async def test_a_bad_token_is_401(self, rig: Rig, claims: dict[str, object]) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("guard2", replica))
        got = await rig.get(rig.host("guard2"), token=rig.keys.token(**claims))
        assert got.status == 401
        assert not replica.seen

    async def test_a_token_in_the_query_is_none(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("guard3", replica))
        got = await rig.get(rig.host("guard3"), f"/?access_token={rig.keys.token()}", token=None)
        assert got.status == 401

    @pytest.mark.parametrize(
        "claims",
        [
            {"organization": {"other": {"id": "org-other"}}},
            {"organization": {"a": {"id": "org-acme"}, "other": {"id": "org-other"}}},
            {"organization": {"acme": {"id": "an older acme"}}},
            {"organization": {}},
            {"organization": "acme"},
            {"scope": "GetApp"},
            {"scope": ""},
            {"scope": "InvokeAppX"},
            {"scope": "GetApp XInvokeApp"},
            {"scope": "invokeapp"},
            {"scope": ["InvokeApp"]},
            {"scope": None},
        ],
        ids=str,
    )
    async def test_a_good_token_that_does_not_fit_is_403(
        self, rig: Rig, claims: dict[str, object]
    ) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("guard4", replica))
        got = await rig.get(rig.host("guard4"), token=rig.keys.token(**claims))
        assert got.status == 403
        assert got.json()["code"] == 7
        assert not replica.seen

    async def test_any_organization_may_invoke_a_public_app(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("pub", replica, organization="public"))
        host = rig.host("pub", "public")
        assert (await rig.get(host, token=rig.keys.token("other"))).status == 200
        assert (await rig.get(host, token=None)).status == 401
        assert (await rig.get(host, token=rig.keys.token("other", scope=""))).status == 403


class TestAnonymous:
    async def test_an_open_app_needs_no_token_and_keeps_the_header(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("open", replica, allow_unauthenticated=True))
        assert (await rig.get(rig.host("open"), token=None)).status == 200
        assert (await rig.get(rig.host("open"), token="the-app-s-own")).status == 200
        assert replica.seen[1].header("authorization") == "Bearer the-app-s-own"

    async def test_browsers_of_any_origin_may_call_an_open_app(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("cors", replica, allow_unauthenticated=True))
        asks = [
            ("origin", "https://site.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ]
        got = await rig.get(rig.host("cors"), method="OPTIONS", token=None, headers=asks)
        assert got.status in (200, 204)
        assert got.header("access-control-allow-origin") == "https://site.example"
        assert "content-type" in (got.header("access-control-allow-headers") or "")
        assert not replica.seen
        got = await rig.get(rig.host("cors"), token=None, headers=[("origin", "https://x.y")])
        assert got.header("access-control-allow-origin") == "https://x.y"
        assert "Origin" in {value for name, value in got.headers if name == "vary"}

    async def test_a_guarded_app_gives_browsers_nothing(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("nocors", await rig.replica()))
        got = await rig.get(rig.host("nocors"), headers=[("origin", "https://x.y")])
        assert got.status == 200
        assert got.header("access-control-allow-origin") is None


class TestTime:
    async def test_the_app_s_timeout_rules(self, rig: Rig) -> None:
        async def sleep(_: Seen) -> Answered:
            await asyncio.sleep(30)
            return Answered()

        replica = await rig.replica(sleep)
        await rig.controllers.settle(rig.route("slow", replica, timeout_secs=1))
        got = await rig.get(rig.host("slow"))
        assert got.status == 504
        assert got.json()["code"] == 4
        await replica.wait_for(lambda: replica.disconnects == 1)

    async def test_timeouts_over_envoy_s_own_are_configured(self, rig: Rig) -> None:
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("hour", replica, timeout_secs=3600))
        _, dump = await rig.admin.get("/config_dump")
        hosts = dump.decode()
        assert '"timeout": "3600s"' in hosts
        assert '"idle_timeout": "3605s"' in hosts

    async def test_a_client_that_goes_away_disconnects_the_replica(self, rig: Rig) -> None:
        never = asyncio.Event()

        async def hang(_: Seen) -> Answered:
            await never.wait()
            return Answered()

        replica = await rig.replica(hang)
        await rig.controllers.settle(rig.route("leaver", replica))
        _, writer = await rig.connect()
        writer.write(
            (
                f"GET / HTTP/1.1\r\nhost: {rig.host('leaver')}\r\n"
                f"authorization: Bearer {rig.keys.token()}\r\n\r\n"
            ).encode()
        )
        await replica.wait_for(lambda: replica.in_flight == 1)
        writer.close()
        await replica.wait_for(lambda: replica.disconnects == 1)


class TestLoad:
    async def test_more_requests_than_envoy_s_default_bounds_are_served(self, rig: Rig) -> None:
        gate = asyncio.Event()

        async def hold(_: Seen) -> Answered:
            await gate.wait()
            return Answered()

        replica = await rig.replica(hold)
        await rig.controllers.settle(
            rig.route("many", replica, timeout_secs=60, max_concurrency=2000)
        )
        number = 1200

        async def one() -> int:
            return (await rig.get(rig.host("many"), token=token, timeout=60)).status

        token = rig.keys.token()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one()) for _ in range(number)]
            await replica.wait_for(lambda: replica.in_flight == number, timeout=60)
            gate.set()
        assert {task.result() for task in asked} == {200}

    async def test_a_full_replica_s_request_goes_to_another(self, rig: Rig) -> None:
        async def full(_: Seen) -> Answered:
            return Answered(status=503, headers=[("x-ignite-overflow", "true")], body=b"full")

        first, second = await rig.replica(full), await rig.replica()
        await rig.controllers.settle(rig.route("spill", first, second))
        for _ in range(10):
            got = await rig.get(rig.host("spill"), method="POST", body=b"payload")
            assert (got.status, got.body) == (200, b"ok")
        assert first.seen
        assert all(seen.body == b"payload" for seen in second.seen)

    async def test_an_app_s_own_503_is_not_tried_again(self, rig: Rig) -> None:
        async def broken(_: Seen) -> Answered:
            return Answered(status=503, body=b"mine")

        first, second = await rig.replica(broken), await rig.replica(broken)
        await rig.controllers.settle(rig.route("own503", first, second))
        got = await rig.get(rig.host("own503"))
        assert (got.status, got.body) == (503, b"mine")
        assert len(first.seen) + len(second.seen) == 1

    async def test_a_request_that_a_replica_broke_off_is_not_run_twice(self, rig: Rig) -> None:
        async def crash(_: Seen) -> Answered:
            raise ConnectionAbortedError

        first, second = await rig.replica(crash), await rig.replica(crash)
        await rig.controllers.settle(rig.route("crash", first, second))
        got = await rig.get(rig.host("crash"), method="POST", body=b"x")
        assert got.status == 503
        assert got.json()["details"][0]["reason"] == "ReplicaFailed"
        assert got.header("x-ignite-error") == "ReplicaFailed"
        assert len(first.seen) + len(second.seen) == 1


class TestChange:
    @pytest.mark.parametrize("how", ["asleep", "one of two", "gone"])
    async def test_a_request_under_way_ends_although_its_replica_left(
        self, rig: Rig, how: str
    ) -> None:
        gate = asyncio.Event()

        async def hold(_: Seen) -> Answered:
            await gate.wait()
            return Answered(body=[b"x" * 100_000] * 10)

        name = f"long{how.replace(' ', '')}"
        leaving, staying = await rig.replica(hold), await rig.replica()
        warm = rig.route(name, leaving)
        await rig.controllers.settle(warm)
        asked = asyncio.ensure_future(rig.get(rig.host(name)))
        await leaving.wait_for(lambda: leaving.in_flight == 1)
        match how:
            case "asleep":
                await rig.controllers.settle(rig.route(name))
            case "one of two":
                await rig.controllers.settle(rig.route(name, staying))
            case _:
                await rig.controllers.wait_acknowledged(await rig.controllers.drop(warm.key))
        await asyncio.sleep(0.2)
        gate.set()
        got = await asked
        assert (got.status, len(got.body)) == (200, 1_000_000)
        assert leaving.disconnects == 0

    async def test_no_request_is_lost_while_replicas_come_and_go(self, rig: Rig) -> None:
        async def brief(_: Seen) -> Answered:
            await asyncio.sleep(0.005)
            return Answered()

        replicas = [await rig.replica(brief) for _ in range(3)]
        await rig.controllers.settle(rig.route("churn", *replicas))
        statuses: list[int] = []
        stop = asyncio.Event()
        token = rig.keys.token()

        async def ask() -> None:
            reader, writer = await rig.connect()
            sent = [("host", rig.host("churn")), ("authorization", f"Bearer {token}")]
            while not stop.is_set():
                statuses.append((await exchange(reader, writer, "GET", "/", sent)).status)
            writer.close()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(ask())
            for turn in range(6):
                leaving = replicas[turn % 3]
                staying = [replica for replica in replicas if replica is not leaving]
                await rig.controllers.settle(rig.route("churn", *staying))
                # Acknowledged: nothing new comes, what is there ends, then the replica may go.
                await leaving.wait_for(leaving.is_idle)
                before = len(leaving.seen)
                await asyncio.sleep(0.05)
                assert len(leaving.seen) == before
                await leaving.stop()
                replicas[turn % 3] = await rig.replica(brief)
                await rig.controllers.settle(rig.route("churn", *replicas))
            stop.set()
        assert len(statuses) > 100
        assert set(statuses) == {200}

    async def test_a_route_that_envoy_refuses_holds_up_no_other(self, rig: Rig) -> None:
        bad, good = await rig.replica(), await rig.replica()
        bad.endpoint = Endpoint(unix_path="/" + "x" * 200)
        await rig.controllers.put(rig.route("refused", bad), rig.route("fine", good))
        revision = await rig.controllers.put(rig.route("fine2", good))
        await rig.controllers.wait_acknowledged(revision)
        for name in ("fine", "fine2"):
            got = await rig.get(rig.host(name))
            assert got.status == 200
            assert got.header("x-ignite-cold-start") is None
        _, dump = await rig.admin.get("/config_dump")
        assert b"public/acme:fine2" in dump
        await rig.controllers.wait_acknowledged(await rig.controllers.drop("acme/refused@1#aaaa"))

    async def test_one_change_costs_no_other_app_anything(self, rig: Rig) -> None:
        steady, other = await rig.replica(), await rig.replica()
        await rig.controllers.settle(rig.route("steady", steady), rig.route("other", other))
        await rig.get(rig.host("steady"))
        for timeout in range(30, 35):
            await rig.controllers.settle(rig.route("other", other, timeout_secs=timeout))
        await rig.get(rig.host("steady"))
        assert steady.connections == 1
