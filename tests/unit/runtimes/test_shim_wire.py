"""The replica's HTTP parser against anything, and the answers to exceptions that misbehave."""

import contextlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.runtimes.python.ignite_shim.results import failure
from ignite.runtimes.python.ignite_shim.wire import Body, Head, Refused

LIMIT = 10_000
PIECES = st.sampled_from(
    [b"POST", b" ", b"/", b"HTTP/1.1", b"\r\n", b":", b"Content-Length", b"3", b"\t", b"x", b"\0"]
)


class TestHead:
    @given(st.binary() | st.lists(PIECES).map(b"".join))
    def test_anything_is_a_head_or_refused(self, raw: bytes) -> None:
        try:
            head = Head(raw)
        except Refused:
            return
        assert head.path.startswith((b"/", b"*"))
        assert head.length >= -1

    @given(st.text(alphabet="abcXYZ-09", min_size=1), st.binary(max_size=30))
    def test_no_value_makes_another_header(self, name: str, value: bytes) -> None:
        raw = b"POST / HTTP/1.1\r\n" + name.encode() + b": " + value
        try:
            head = Head(raw)
        except Refused:
            return
        assert list(head.headers) == [name.lower().encode()]


def feed(body: Body, parts: list[bytes]) -> tuple[bytes, bytes] | None:
    """Return body and what is behind it; None if it is not complete."""
    buffer = bytearray()
    complete = False
    for part in parts:
        buffer += part
        if not complete:
            complete = body.feed(buffer)
    return (bytes(body.data), bytes(buffer)) if complete else None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


CUTS = st.lists(st.integers(min_value=0), max_size=8)


class TestBody:
    @given(st.lists(st.binary(min_size=1, max_size=50)), st.binary(max_size=20), CUTS)
    def test_chunks_come_together_wherever_they_are_cut(
        self, chunks: list[bytes], behind: bytes, places: list[int]
    ) -> None:
        sent = b"".join(b"%x;ext\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        sent += b"0\r\nTrailer: x\r\n\r\n" + behind
        assert feed(Body(-1, LIMIT), cut(sent, places)) == (b"".join(chunks), behind)

    @given(st.binary(max_size=100), st.binary(max_size=20), CUTS)
    def test_a_length_takes_just_its_bytes(
        self, data: bytes, behind: bytes, places: list[int]
    ) -> None:
        found = feed(Body(len(data), LIMIT), cut(data + behind, places))
        assert found == (data, behind)

    @given(st.binary(), CUTS)
    def test_anything_is_a_body_or_refused(self, raw: bytes, places: list[int]) -> None:
        with contextlib.suppress(Refused):
            feed(Body(-1, LIMIT), cut(raw, places))

    @given(st.integers(min_value=1, max_value=LIMIT), st.integers(min_value=1, max_value=10**9))
    def test_no_more_than_the_bound_is_kept(self, size: int, more: int) -> None:
        with pytest.raises(Refused, match="over"):
            feed(Body(-1, size), [b"%x\r\n" % (size + more)])


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Odd(), ValueError("\udcff"), KeyboardInterrupt("x")])
def test_every_exception_has_an_answer(error: BaseException) -> None:
    data, kind = failure(error)
    assert kind == "application/json"
    assert json.loads(data).keys() == {"error", "type", "traceback"}
    assert json.loads(data)["type"] == type(error).__name__
