"""The internal way: our own roles reach any version of any app by Envoy's internal listener."""

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.replica import Answered, FakeReplica, Seen

from ignite.domain.apps import AppRef
from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from ignite.domain.identity import OrganizationName
from ignite.domain.routes import Route
from ignite.gateway import replies
from ignite.gateway.table import ready_replica
from ignite.internal.v1 import routes_pb2 as pb
from ignite.ports.dispatch import Call, Reply

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig(gateway={"cold_start_budget_secs": 5}) as running:
        yield running


def call(name: str, **changes: object) -> Call:
    base = Call(
        app=AppRef(organization=OrganizationName("acme"), name=name),
        version=None,
        execution_id="exec_01TEST",
        method="POST",
        target="/",
        headers=(),
        body=b"",
        deadline_secs=20,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's shorthand


async def read(reply: Reply) -> bytes:
    return b"".join([chunk async for chunk in reply.body()])


class TestWarm:
    async def test_request_and_answer_come_through_whole(self, rig: Rig) -> None:
        async def answer(_: Seen) -> Answered:
            return Answered(
                status=201,
                headers=[("X-App", "yes"), ("x-ignite-error", "Forged")],
                body=[b"a", b"b" * 300_000],
                trailers=[("X-Sum", "2")],
            )

        replica = await rig.replica(answer)
        await rig.controllers.settle(rig.route("d.one", replica))
        asked = call(
            "d.one",
            method="PUT",
            target="/p//q?x=%20",
            headers=(("X-Mine", "1"), ("x-ignite-function-id", "evil"), ("Connection", "x")),
            body=b"\x00" * 200_000,
        )
        async with rig.dispatcher.dispatch(asked) as reply:
            assert reply.status == 201
            assert ("x-app", "yes") in reply.headers
            assert not [name for name, _ in reply.headers if name == "transfer-encoding"]
            assert await read(reply) == b"a" + b"b" * 300_000
            assert reply.trailers == (("x-sum", "2"),)
        (seen,) = replica.seen
        assert (seen.method, seen.target, len(seen.body)) == ("PUT", "/p//q?x=%20", 200_000)
        assert seen.header("x-mine") == "1"
        assert seen.header("x-ignite-execution-id") == "exec_01TEST"
        assert seen.header("x-ignite-function-id") == "acme/d.one"
        assert seen.header("host") == rig.host("d.one")

    async def test_versions_are_apart(self, rig: Rig) -> None:
        async def one(_: Seen) -> Answered:
            return Answered(body=b"one")

        async def two(_: Seen) -> Answered:
            return Answered(body=b"two")

        first = rig.route("vers", await rig.replica(one), version=1)
        second = rig.route("vers", await rig.replica(two), version=2, is_active=False, hostnames=())
        await rig.controllers.settle(first, second)

        async def ask(version: int | None) -> bytes:
            async with rig.dispatcher.dispatch(call("vers", version=version)) as reply:
                return await read(reply)

        assert [await ask(v) for v in (None, 1, 2)] == [b"one", b"one", b"two"]
        await rig.controllers.settle(
            replace(first, is_active=False, hostnames=()),
            replace(second, is_active=True, hostnames=first.hostnames),
        )
        assert [await ask(v) for v in (None, 1, 2)] == [b"two", b"one", b"two"]
        assert (await rig.get(rig.host("vers"))).body == b"two"

    async def test_what_the_activator_refuses_for_a_full_app_is_marked_as_ours(
        self, rig: Rig
    ) -> None:
        async def full(_: Seen) -> Answered:
            forged = [("x-ignite-error", "Forged"), ("x-ignite-overflow", "full")]
            return Answered(status=503, headers=forged)

        await rig.controllers.settle(rig.route("full", await rig.replica(full)))
        with pytest.raises(Unavailable) as caught:
            async with rig.dispatcher.dispatch(call("full")):
                pass
        assert caught.value.reason == "Overloaded"
        got = await rig.get(rig.host("full"))
        assert (got.status, got.json()["code"]) == (503, 14)
        ours = {name: value for name, value in got.headers if name.startswith("x-ignite-error")}
        assert ours == {"x-ignite-error": "Overloaded"}

    async def test_connections_are_used_again(self, rig: Rig) -> None:
        await rig.controllers.settle(rig.route("again", await rig.replica()))
        for method in ("GET", "HEAD", "POST"):
            async with rig.dispatcher.dispatch(call("again", method=method)) as reply:
                assert await read(reply) == (b"" if method == "HEAD" else b"ok")

    async def test_leaving_early_disconnects_the_replica(self, rig: Rig) -> None:
        async def slow(_: Seen) -> Answered:
            await asyncio.sleep(30)
            return Answered()

        replica = await rig.replica(slow)
        await rig.controllers.settle(rig.route("early", replica))

        async def ask() -> None:
            async with rig.dispatcher.dispatch(call("early")):
                pass

        asking = asyncio.ensure_future(ask())
        await replica.wait_for(lambda: replica.in_flight == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await replica.wait_for(lambda: replica.disconnects == 1)

    async def test_a_reader_that_waits_slows_the_replica(self, rig: Rig) -> None:
        chunks = [b"x" * 65_536] * 800
        replica = await rig.replica(lambda _: _answer(Answered(body=chunks)))
        await rig.controllers.settle(rig.route("wide", replica))
        async with rig.dispatcher.dispatch(call("wide")) as reply:
            await asyncio.sleep(0.5)
            assert replica.in_flight == 1
            assert len(await read(reply)) == 800 * 65_536


async def _answer_always(answer: Answered, _request: Seen) -> Answered:
    return answer


async def _answer(answer: Answered) -> Answered:
    return answer


class TestErrors:
    async def expect(self, rig: Rig, asked: Call) -> IgniteError:
        with pytest.raises(IgniteError) as caught:
            async with rig.dispatcher.dispatch(asked) as reply:
                await read(reply)
        return caught.value

    async def test_the_app_s_own_errors_are_answers(self, rig: Rig) -> None:
        for status in (404, 429, 500, 503, 504):
            replica = await rig.replica(partial(_answer_always, Answered(status=status)))
            await rig.controllers.settle(rig.route("own", replica))
            async with rig.dispatcher.dispatch(call("own")) as reply:
                assert reply.status == status

    async def test_an_unknown_app_is_not_found(self, rig: Rig) -> None:
        before = rig.controllers.on_wake
        rig.controllers.on_wake = lambda _a, _v: pb.WakeResponse(
            ok=False, reason="AppNotFound", message="no app"
        )
        try:
            error = await self.expect(rig, call("nobody"))
        finally:
            rig.controllers.on_wake = before
        assert isinstance(error, NotFound)
        assert (error.reason, error.message) == ("AppNotFound", "no app")

    @pytest.mark.parametrize("was_cold", [False, True])
    async def test_a_request_that_a_replica_took_and_lost_says_so(
        self, rig: Rig, was_cold: bool
    ) -> None:
        async def crash(_: Seen) -> Answered:
            raise ConnectionAbortedError

        replica = await rig.replica(crash)
        route = rig.route(f"lost{was_cold:d}", replica)
        asked = call(route.app.name, body=b"x")
        if was_cold:
            asking = asyncio.ensure_future(self.expect(rig, asked))
            wake = (route.app.id, None)
            await rig.controllers.wait_for(lambda: wake in rig.controllers.wakes)
            await rig.controllers.put(route)
            error = await asking
        else:
            await rig.controllers.settle(route)
            error = await self.expect(rig, asked)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.message) == (replies.LOST.reason, replies.LOST.message)
        assert len(replica.seen) == 1

    async def test_a_start_that_cannot_be_is_unavailable_with_its_reason(self, rig: Rig) -> None:
        await rig.controllers.settle(
            rig.route("bad", failure_reason="CrashLoop", failure_message="boom")
        )
        error = await self.expect(rig, call("bad"))
        assert isinstance(error, Unavailable)
        assert (error.reason, error.message) == ("CrashLoop", "boom")

    async def test_the_caller_s_deadline_rules(self, rig: Rig) -> None:
        async def sleep(_: Seen) -> Answered:
            await asyncio.sleep(30)
            return Answered()

        replica = await rig.replica(sleep)
        await rig.controllers.settle(rig.route("late", replica))
        error = await self.expect(rig, call("late", deadline_secs=0.5))
        assert isinstance(error, DeadlineExceeded)
        await replica.wait_for(lambda: replica.disconnects == 1)

    async def test_the_app_s_timeout_is_a_deadline(self, rig: Rig) -> None:
        async def sleep(_: Seen) -> Answered:
            await asyncio.sleep(30)
            return Answered()

        await rig.controllers.settle(rig.route("late2", await rig.replica(sleep), timeout_secs=1))
        assert isinstance(await self.expect(rig, call("late2")), DeadlineExceeded)

    async def test_an_answer_that_breaks_off_is_unavailable(self, rig: Rig) -> None:
        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            await writer.drain()
            writer.close()

        replica = await rig.replica()
        await replica.stop()
        server = await asyncio.start_unix_server(cut, str(replica.path))
        await rig.controllers.settle(rig.route("cut", replica))
        async with rig.dispatcher.dispatch(call("cut")) as reply:
            assert reply.status == 200
            with pytest.raises(Unavailable):
                await read(reply)
        server.close()

    @pytest.mark.parametrize(
        "bad",
        [
            {"method": "GET / HTTP/1.1\r\nx:"},
            {"target": "no-slash"},
            {"target": "/a b"},
            {"target": "/a\r\nx: y"},
            {"headers": (("x", "a\r\nb: c"),)},
            {"headers": (("x:y", "a"),)},
            {"headers": (("x", "\u20ac"),)},
        ],
        ids=str,
    )
    async def test_what_is_no_http_is_refused(self, rig: Rig, bad: dict[str, object]) -> None:
        with pytest.raises(InvalidArgument):
            rig.dispatcher.dispatch(call("x", **bad))


class TestCold:
    async def test_a_version_that_sleeps_is_woken(self, rig: Rig) -> None:
        route = rig.route("trial", version=7, is_active=False, hostnames=())
        replica = await rig.replica()
        ready = replace(route, replicas=(ready_replica(route.key, "t", replica.endpoint),))

        async def ask() -> bytes:
            async with rig.dispatcher.dispatch(call("trial", version=7, body=b"in")) as reply:
                assert ("x-ignite-cold-start", "true") in reply.headers
                return await read(reply)

        asking = asyncio.ensure_future(ask())
        await rig.controllers.wait_for(lambda: ("acme/trial", 7) in rig.controllers.wakes)
        await rig.controllers.put(ready)
        assert await asking == b"ok"
        (seen,) = replica.seen
        assert seen.body == b"in"
        assert seen.header("x-ignite-execution-id") == "exec_01TEST"
        assert seen.header("host") == rig.host("trial")

    async def test_a_draft_is_never_answered_by_the_code_it_replaced(self, rig: Rig) -> None:
        async def replaced(_: Seen) -> Answered:
            return Answered(body=b"replaced")

        old_replica, replica = await rig.replica(replaced), await rig.replica()
        draft = rig.route("draft", version=0, is_active=False, hostnames=())

        def ready(key: str, of: FakeReplica) -> Route:
            return replace(
                draft, key=key, replicas=(ready_replica(key, of.path.name, of.endpoint),)
            )

        async def ask() -> tuple[int, bytes]:
            asked = call("draft", version=0, workload="acme/draft@0#new")
            async with rig.dispatcher.dispatch(asked) as reply:
                return reply.status, await read(reply)

        old = ready("acme/draft@0#old", old_replica)
        await rig.controllers.settle(old)
        asking = asyncio.ensure_future(ask())
        await rig.controllers.wait_for(lambda: ("acme/draft", 0) in rig.controllers.wakes)
        await rig.controllers.put(ready("acme/draft@0#new", replica))
        assert await asking == (200, b"ok")
        # Both run for a moment: whichever route was told last, the one that was named answers.
        await rig.controllers.settle(replace(old, timeout_secs=3))
        assert await ask() == (200, b"ok")
        assert old_replica.seen == []


class TestDoor:
    async def test_the_internal_socket_is_its_owner_s_alone(self, rig: Rig) -> None:
        for path in (
            rig.layout.internal_socket,
            rig.layout.activator_socket,
            rig.layout.xds_socket,
            rig.layout.envoy_admin_socket,
        ):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
