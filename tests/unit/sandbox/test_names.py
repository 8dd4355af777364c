"""The server of names: what it passes on, to whom, and its bounds."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.sandbox.network import names
from ignite.sandbox.network.names import NameServer, Resolvers, failure, is_answer, is_question

LOOPBACK = IPv4Address("127.0.0.1")


def question(name: str = "app.example", number: int = 7) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def answer(asked: bytes, address: str = "198.51.100.7") -> bytes:
    head = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
    return head + asked[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)


class Resolver(asyncio.DatagramProtocol):
    """A resolver on loopback. Keeps what it is asked; answers unless it is told to be silent."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_silent = False
        self.lies: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.put_nowait(data)
        for lie in self.lies:
            self.transport.sendto(lie, addr)
        if not self.is_silent:
            self.transport.sendto(answer(data), addr)


@asynccontextmanager
async def serving(given: tuple[str, ...] = ("127.0.0.1",)) -> AsyncIterator[tuple[Resolver, int]]:
    """Yield a resolver, and the port of a name server that asks it."""
    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(Resolver, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    server = NameServer(Resolvers(given, port=port))
    own = server.open(LOOPBACK)
    running = asyncio.ensure_future(server.run())
    try:
        yield resolver, own
    finally:
        running.cancel()
        await asyncio.wait([running])
        transport.close()
        server.close()


@asynccontextmanager
async def asking(port: int, source: str = "127.0.0.1") -> AsyncIterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.setblocking(False)
        wire.bind((source, 0))
        wire.connect(("127.0.0.1", port))
        yield wire


async def received(wire: socket.socket) -> bytes:
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(wire, 4096)


async def test_an_answer_comes_back_under_the_askers_number() -> None:
    async with serving() as (resolver, port), asking(port) as wire:
        wire.send(question(number=7))
        assert await received(wire) == answer(question(number=7))
        asked = await resolver.asked.get()
        assert asked[2:] == question()[2:]


async def test_numbers_are_new_for_each_question() -> None:
    async with serving() as (resolver, port), asking(port) as wire:
        seen = set()
        for _ in range(8):
            wire.send(question(number=7))
            await received(wire)
            seen.add((await resolver.asked.get())[:2])
        assert len(seen) > 1


async def test_what_does_not_answer_the_question_is_passed_over() -> None:
    async with serving() as (resolver, port), asking(port) as wire:
        resolver.lies = [b"", b"x", answer(question("other.example", 0)), question(number=0)]
        wire.send(question(number=3))
        assert await received(wire) == answer(question(number=3))


async def test_the_next_resolver_is_asked_and_then_it_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "ANSWER_SECS", 0.2)
    # Nobody listens at the first.
    async with serving(("127.0.0.2", "127.0.0.1")) as (resolver, port), asking(port) as wire:
        wire.send(question(number=3))
        assert await received(wire) == answer(question(number=3))
        resolver.is_silent = True
        wire.send(question(number=4))
        assert await received(wire) == failure(question(number=4))


async def test_one_asker_has_only_so_many_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST_WAITING", 2)
    async with serving() as (resolver, port), asking(port) as wire:
        resolver.is_silent = True
        for _ in range(5):
            wire.send(question("greedy.example"))
        async with asking(port, source="127.0.0.3") as other:
            other.send(question("modest.example"))
            async with asyncio.timeout(20):
                found = [(await resolver.asked.get())[12:] for _ in range(3)]
        greedy, modest = question("greedy.example")[12:], question("modest.example")[12:]
        assert found == [greedy, greedy, modest]


async def test_rubbish_does_not_end_it() -> None:
    async with serving() as (_, port), asking(port) as wire:
        for rubbish in (b"", b"x", b"\xff" * 12, b"\xff" * 1232, b"\0" * 1400, answer(question())):
            wire.send(rubbish)
        wire.send(question(number=9))
        assert await received(wire) == answer(question(number=9))


async def test_a_connection_that_says_nothing_sensible_is_closed() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\0\5hello")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


@given(st.binary(max_size=1400), st.binary(max_size=600))
def test_no_message_makes_it_fail(one: bytes, two: bytes) -> None:
    if is_question(one):
        is_answer(two, one)
        assert is_answer(failure(one), one)
        assert not is_question(failure(one))


def test_a_failure_repeats_what_was_asked() -> None:
    made = failure(question(number=5) + b"more")
    assert made[:2] == b"\0\5"
    assert made[3] & 0xF == 2
    assert made[12:] == question()[12:]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.0.0.2\nnameserver fd00::1\n", ("10.0.0.2", "fd00::1")),
        ("# nameserver 1.1.1.1\nsearch a b\nnameserver\nnameserver x\n", ("127.0.0.1",)),
        ("nameserver fe80::1%eth0\n", ("fe80::1%eth0",)),
        ("nameserver 1.1.1.1\n" * 5, ("1.1.1.1",) * 3),
    ],
)
def test_resolvers_are_read_from_the_machines_file(
    text: str, found: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert names.servers(file) == found
