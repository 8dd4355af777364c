"""Heads of HTTP/1.1: what is read, what is refused, what is written."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.gateway.heads import BadHead, Head, parse_head, read_head


def test_a_head_is_written_as_it_was_read() -> None:
    raw = b"POST /a//b?c HTTP/1.1\r\nhost: x\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n"
    assert parse_head(raw).encode() == raw


def test_fields_are_found_and_changed_whatever_their_case() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nX-One: 1\r\nx-two:2\r\nX-TWO: 3\r\n\r\n")
    assert (head.status, head.get("x-one"), head.get("x-two"), head.get("none")) == (
        200,
        "1",
        "2",
        "",
    )
    changed = head.without("x-one").plus([("x-two", "new")])
    assert changed.fields == [(b"x-two", b"new")]
    assert len(head.fields) == 3


@pytest.mark.parametrize("value", ["Upgrade", "keep-alive, upgrade"])
def test_upgrades_are_seen(value: str) -> None:
    raw = f"GET / HTTP/1.1\r\nConnection: {value}\r\n\r\n".encode()
    assert parse_head(raw).is_upgrade


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / SPDY/3\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
    ],
)
def test_what_is_no_head_is_refused(raw: bytes) -> None:
    with pytest.raises(BadHead):
        parse_head(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(raw: bytes) -> None:
    try:
        head = parse_head(raw + b"\r\n\r\n")
    except BadHead:
        return
    assert isinstance(head, Head)
    assert b"\r\n\r\n" not in head.encode()[:-4]


class TestReading:
    async def read(self, *parts: bytes, limit: int = 1000) -> Head | None:
        reader = asyncio.StreamReader(limit=limit)
        for part in parts:
            reader.feed_data(part)
        reader.feed_eof()
        return await read_head(reader)

    async def test_an_empty_stream_is_none(self) -> None:
        assert await self.read() is None

    async def test_a_head_in_pieces(self) -> None:
        head = await self.read(b"HTTP/1.1 20", b"4 -\r\nx: y\r", b"\n\r\nbody")
        assert head is not None
        assert (head.status, head.get("x")) == (204, "y")

    async def test_half_a_head_is_refused(self) -> None:
        with pytest.raises(BadHead):
            await self.read(b"HTTP/1.1 200 OK\r\nx: y\r\n")

    async def test_a_head_without_end_is_refused(self) -> None:
        with pytest.raises(BadHead):
            await self.read(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 5000)
