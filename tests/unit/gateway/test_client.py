"""The parser of the dispatcher's connections: the same answer however its bytes are cut."""

import asyncio
import itertools
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.gateway.client import Wire

HEAD = b"HTTP/1.1 200 OK\r\nx-a: b\r\n"
BODY = bytes(range(256)) * 4
WHOLE = HEAD + b"content-length: 1024\r\n\r\n" + BODY
CHUNKED = (
    HEAD
    + b"transfer-encoding: chunked\r\n\r\n200\r\n"
    + BODY[:512]
    + b"\r\n200\r\n"
    + BODY[512:]
    + b"\r\n0\r\nx-sum: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-length: 5\r\n\r\n" + WHOLE


class Transport:
    """Takes what is written; pausing is noted and obeyed by nobody."""

    def write(self, data: bytes) -> None:
        del data

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


def begun(*, head_only: bool = False) -> Wire:
    wire = Wire()
    wire.connection_made(cast("asyncio.Transport", Transport()))
    loop = asyncio.get_running_loop()
    wire.send(b"GET / HTTP/1.1\r\n\r\n", head_only=head_only, ends=loop.time() + 60)
    return wire


async def body_of(wire: Wire) -> bytes:
    body = b""
    while chunk := await wire.read():
        body += chunk
    return body


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED, INTERIM])
@given(cuts=st.sets(st.integers(1, len(CHUNKED) - 1), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, cuts: set[int]) -> None:
    async def check() -> None:
        wire = begun()
        edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
        for start, end in itertools.pairwise(edges):
            assert not wire.is_complete
            wire.data_received(answer[start:end])
        await wire.head()
        assert (wire.status, dict(wire.headers)["x-a"]) == (200, "b")
        assert await body_of(wire) == BODY
        assert wire.trailers == ([("x-sum", "1")] if answer is CHUNKED else [])
        assert wire.is_complete
        assert wire.is_reusable
        wire.end()

    asyncio.run(check())


async def test_an_answer_that_is_cut_short_is_no_whole_one() -> None:
    wire = begun()
    wire.data_received(WHOLE[:-100])
    wire.data_received(WHOLE[-100:-1])
    wire.connection_lost(None)
    with pytest.raises(ConnectionError):
        await body_of(wire)
    assert not wire.is_reusable
    wire.end()


async def test_what_comes_after_the_answer_is_not_a_part_of_it() -> None:
    wire = begun()
    wire.data_received(WHOLE[:200])
    wire.data_received(WHOLE[200:] + b"HTTP/1.1 200 OK\r\n")
    assert await body_of(wire) == BODY
    assert not wire.is_reusable
    wire.end()


async def test_an_empty_body_is_complete_with_the_head() -> None:
    wire = begun()
    wire.data_received(HEAD + b"content-length: 0\r\n\r\n")
    assert await body_of(wire) == b""
    assert wire.is_reusable
    wire.end()


async def test_what_a_head_request_announces_does_not_come() -> None:
    wire = begun(head_only=True)
    wire.data_received(HEAD + b"content-length: 1024\r\n\r\n")
    assert await body_of(wire) == b""
    wire.end()


async def test_who_waits_beyond_the_end_is_late() -> None:
    wire = Wire()
    wire.connection_made(cast("asyncio.Transport", Transport()))
    loop = asyncio.get_running_loop()
    wire.send(b"", head_only=False, ends=loop.time() + 0.01)
    with pytest.raises(TimeoutError):
        await wire.head()
    wire.data_received(WHOLE)
    await wire.head()
    assert await body_of(wire) == BODY
    wire.end()
