"""What the activator carries to a replica and back, byte for byte."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig, until_held, warm
from tests.support.replica import Answered, FakeReplica, Got, Seen

from ignite.domain.routes import Route

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig(
        gateway={"cold_start_budget_secs": 5, "max_held_per_app": 50, "max_held": 80}
    ) as running:
        yield running


class TestRelay:
    async def wake(self, rig: Rig, name: str, replica: FakeReplica, **changes: object) -> Route:
        """Make `name` ready the moment it is woken, but keep Envoy on the cold way."""
        route = rig.route(name, **changes)
        await rig.controllers.settle(route)
        return warm(route, replica)

    async def ask(self, rig: Rig, route: Route, method: str = "GET", body: bytes = b"") -> Got:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(rig.get(rig.host(route.app.name), method=method, body=body))
            await until_held(rig, route.key, 1)
            await rig.controllers.put(route)
        return asked.result()

    async def test_caches_are_told_that_an_open_app_s_answer_depends_on_the_origin(
        self, rig: Rig
    ) -> None:
        async def gzip(_: Seen) -> Answered:
            return Answered(headers=[("vary", "accept-encoding")])

        replica = await rig.replica(gzip)
        route = await self.wake(rig, "coldvary", replica, allow_unauthenticated=True)
        asks = [("origin", "https://x.y")]
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(rig.get(rig.host("coldvary"), token=None, headers=asks))
            await until_held(rig, route.key, 1)
            await rig.controllers.put(route)
        got = asked.result()
        assert got.header("access-control-allow-origin") == "https://x.y"
        vary = {word for n, value in got.headers if n == "vary" for word in value.split(",")}
        assert {word.strip() for word in vary} == {"accept-encoding", "Origin"}

    async def test_large_bodies_both_ways(self, rig: Rig) -> None:
        async def echo(seen: Seen) -> Answered:
            return Answered(
                body=[seen.body[i : i + 65_536] for i in range(0, len(seen.body), 65_536)]
            )

        route = await self.wake(rig, "large", await rig.replica(echo))
        body = bytes(range(256)) * 16_384
        got = await self.ask(rig, route, "POST", body)
        assert got.status == 200
        assert got.body == body

    async def test_trailers_come_through(self, rig: Rig) -> None:
        async def answer(_: Seen) -> Answered:
            return Answered(body=[b"x"], trailers=[("x-sum", "1")])

        got = await self.ask(rig, await self.wake(rig, "coldtrail", await rig.replica(answer)))
        assert (got.body, got.trailers) == (b"x", [("x-sum", "1")])

    async def test_head_and_empty_answers_end(self, rig: Rig) -> None:
        async def empty(_: Seen) -> Answered:
            return Answered(status=204, body=b"")

        route = await self.wake(rig, "empty", await rig.replica(empty))
        assert (await self.ask(rig, route, "HEAD")).status == 204

    async def test_the_app_s_timeout_rules(self, rig: Rig) -> None:
        async def sleep(_: Seen) -> Answered:
            await asyncio.sleep(30)
            return Answered()

        replica = await rig.replica(sleep)
        got = await self.ask(rig, await self.wake(rig, "coldslow", replica, timeout_secs=1))
        assert got.status == 504
        assert got.json()["details"][0]["reason"] == "DeadlineExceeded"
        await replica.wait_for(lambda: replica.disconnects == 1)

    async def test_an_app_cannot_pass_for_the_gateway(self, rig: Rig) -> None:
        async def answer(_: Seen) -> Answered:
            return Answered(status=503, headers=[("x-ignite-error", "Forged")])

        got = await self.ask(rig, await self.wake(rig, "coldforger", await rig.replica(answer)))
        assert got.status == 503
        assert got.header("x-ignite-error") is None

    async def test_an_upgraded_connection_flows_both_ways(self, rig: Rig) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
                b"connection: Upgrade\r\n\r\n"
            )
            while data := await reader.read(100):
                writer.write(data.upper())
            writer.close()

        path = rig.layout.replica_sockets / "ws"
        server = await asyncio.start_unix_server(accept, str(path))
        replica = FakeReplica(path)
        route = await self.wake(rig, "socket", replica, timeout_secs=1)
        for _ in ("cold", "warm"):
            reader, writer = await rig.connect()
            writer.write(
                (
                    f"GET /ws HTTP/1.1\r\nhost: {rig.host('socket')}\r\n"
                    f"authorization: Bearer {rig.keys.token()}\r\n"
                    "connection: Upgrade\r\nupgrade: websocket\r\n"
                    "sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
                ).encode()
            )
            await rig.controllers.wait_for(lambda: ("acme/socket", None) in rig.controllers.wakes)
            await rig.controllers.settle(route)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101")
            for word in (b"hello", b"again"):
                writer.write(word)
                assert await reader.readexactly(5) == word.upper()
                # Longer than the app's timeout, which is for requests and not for conversations.
                await asyncio.sleep(0.7)
            writer.close()
            await writer.wait_closed()
        server.close()

    async def test_both_directions_flow_at_once(self, rig: Rig) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while (line := await reader.readline()) != b"0\r\n":
                writer.write(line + await reader.readexactly(int(line, 16) + 2))
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            writer.close()

        path = rig.layout.replica_sockets / "duplex"
        server = await asyncio.start_unix_server(echo, str(path))
        replica = FakeReplica(path)
        route = await self.wake(rig, "duplex", replica, timeout_secs=1)
        for way in ("cold", "warm"):
            reader, writer = await rig.connect()
            writer.write(
                (
                    f"POST / HTTP/1.1\r\nhost: {rig.host('duplex')}\r\n"
                    f"authorization: Bearer {rig.keys.token()}\r\n"
                    "transfer-encoding: chunked\r\n\r\n"
                ).encode()
            )
            if way == "cold":
                await until_held(rig, route.key, 1)
            await rig.controllers.settle(route)
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                for number in range(5):
                    writer.write(b"5\r\nhell%d\r\n" % number)
                    assert await reader.readexactly(10) == b"5\r\nhell%d\r\n" % number
                    # An upload that takes longer than the app's timeout is no late answer.
                    await asyncio.sleep(0.3)
                writer.write(b"0\r\n\r\n")
                assert await reader.readexactly(5) == b"0\r\n\r\n"
            writer.close()
        server.close()

    async def test_a_slow_reader_slows_the_replica(self, rig: Rig) -> None:
        sent = 0

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
            try:
                while True:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
                    sent += 65_536
            except ConnectionError:
                writer.close()

        path = rig.layout.replica_sockets / "endless"
        server = await asyncio.start_unix_server(endless, str(path))
        route = await self.wake(rig, "endless", FakeReplica(path))
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=65_536)
        writer.write(
            (
                f"GET / HTTP/1.1\r\nhost: {rig.host('endless')}\r\n"
                f"authorization: Bearer {rig.keys.token()}\r\n\r\n"
            ).encode()
        )
        await until_held(rig, route.key, 1)
        await rig.controllers.put(route)
        await reader.readexactly(1000)
        before = -1
        async with asyncio.timeout(10):
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
        assert sent < 32 * 1024 * 1024
        writer.transport.abort()
        server.close()

    async def test_a_refusal_arrives_whole_although_the_body_is_not_read(self, rig: Rig) -> None:
        for _ in range(5):
            got = await rig.get(rig.host("nobody"), "/", method="POST", body=b"x" * 2_000_000)
            assert got.status == 404
            assert got.header("x-ignite-error") == "HostNotFound"

    async def test_an_early_answer_does_not_wait_for_the_body(self, rig: Rig) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            await writer.drain()
            writer.close()

        path = rig.layout.replica_sockets / "early"
        server = await asyncio.start_unix_server(refuse, str(path))
        route = await self.wake(rig, "early", FakeReplica(path))
        reader, writer = await rig.connect()
        writer.write(
            (
                f"POST / HTTP/1.1\r\nhost: {rig.host('early')}\r\n"
                f"authorization: Bearer {rig.keys.token()}\r\ncontent-length: 1000\r\n\r\n"
            ).encode()
        )
        await until_held(rig, route.key, 1)
        await rig.controllers.put(route)
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()
        server.close()
