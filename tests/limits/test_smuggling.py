"""One request in is one request at the replica, or none: whatever its framing tries to hide.

The replica here is a strict parser that keeps all it got. The way to a warm app is Envoy alone; to
one that sleeps it is Envoy and the activator's relay, which looks at heads itself.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from tests.limits.wire import Http2, Outcome, check_error, connect
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.replica import FakeReplica

from ignite.internal.v1 import routes_pb2 as pb

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]

HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = "transfer-encoding: chunked\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Lines after the usual head, the bytes after it, and what should come of them."""

    lines: str
    rest: bytes
    status: int
    body: bytes = b""


CASES = {
    "length before chunks": Case(
        lines=f"content-length: {len(HIDDEN) + 5}\r\n{CHUNKED}", rest=END + HIDDEN, status=400
    ),
    "chunks before length": Case(
        lines=f"{CHUNKED}content-length: 4\r\n",
        rest=b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END,
        status=400,
    ),
    "two lengths": Case(
        lines=f"content-length: 0\r\ncontent-length: {len(HIDDEN)}\r\n", rest=HIDDEN, status=400
    ),
    "the same length twice": Case(
        lines="content-length: 2\r\ncontent-length: 2\r\n", rest=b"hi", status=400
    ),
    "a list of lengths": Case(lines="content-length: 2, 2\r\n", rest=b"hi", status=400),
    "a length with a sign": Case(lines="content-length: +2\r\n", rest=b"hi", status=400),
    "a length in hexadecimal": Case(lines="content-length: 0x2\r\n", rest=b"hi", status=400),
    "no length in the field": Case(lines="content-length: \r\n", rest=HIDDEN, status=400),
    "two encodings": Case(
        lines=f"{CHUNKED}transfer-encoding: identity\r\n", rest=END + HIDDEN, status=501
    ),
    "a list of encodings": Case(
        lines="transfer-encoding: gzip, chunked\r\n", rest=END + HIDDEN, status=501
    ),
    "space before the colon": Case(
        lines="transfer-encoding : chunked\r\n", rest=END + HIDDEN, status=400
    ),
    "space inside the name": Case(
        lines="transfer encoding: chunked\r\n", rest=END + HIDDEN, status=400
    ),
    "NUL in the encoding": Case(
        lines="transfer-encoding: chunked\0\r\n", rest=END + HIDDEN, status=400
    ),
    "vertical tab before the encoding": Case(
        lines="transfer-encoding: \x0bchunked\r\n", rest=END + HIDDEN, status=400
    ),
    "negative chunk": Case(lines=CHUNKED, rest=b"-1\r\n" + HIDDEN, status=400),
    "chunk with a prefix": Case(lines=CHUNKED, rest=b"0x2\r\nhi\r\n" + END, status=400),
    "chunk that overflows": Case(lines=CHUNKED, rest=b"f" * 17 + b"\r\nhi\r\n" + END, status=400),
    "chunk without its end": Case(lines=CHUNKED, rest=b"2\r\nhi" + END, status=400),
    "bare line feed after a size": Case(lines=CHUNKED, rest=b"2;a\nhi\r\n" + END, status=400),
    "a field that goes on in the next line": Case(
        lines="x-long: a\r\n b\r\ncontent-length: 2\r\n", rest=b"hi", status=200, body=b"hi"
    ),
    "an encoding in the next line": Case(
        lines="transfer-encoding:\r\n chunked\r\n",
        rest=b"2\r\nhi\r\n" + END,
        status=200,
        body=b"hi",
    ),
    "bare line feeds": Case(
        lines="x-a: b\ncontent-length: 2\r\n", rest=b"hi", status=200, body=b"hi"
    ),
    "extensions of chunks": Case(
        lines=CHUNKED, rest=b'2;a=b;c="d"\r\nhi\r\n' + END, status=200, body=b"hi"
    ),
    "fields after the chunks": Case(
        lines=CHUNKED,
        rest=b"2\r\nhi\r\n0\r\ncontent-length: 40\r\nhost: evil\r\n\r\n",
        status=200,
        body=b"hi",
    ),
    "bytes between a chunk and its end": Case(
        lines=CHUNKED, rest=b"2\r\nhiho\r\n" + END, status=200, body=b"hi"
    ),
    "a length with an underscore": Case(
        lines="content_length: 40\r\ncontent-length: 2\r\n", rest=b"hi", status=200, body=b"hi"
    ),
    "an unknown expectation": Case(
        lines="expect: 200-ok\r\ncontent-length: 2\r\n", rest=b"hi", status=200, body=b"hi"
    ),
    "another protocol": Case(
        lines="upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\ncontent-length: 2\r\n",
        rest=b"hi",
        status=200,
        body=b"hi",
    ),
    "named for one hop": Case(
        lines="connection: content-length, host\r\ncontent-length: 2\r\n", rest=b"hi", status=400
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as running:
        yield running


async def served(rig: Rig, name: str, way: str) -> FakeReplica:
    """Return the replica of an app that is warm, or becomes so when it is woken."""
    replica = await rig.replica()
    if way == "warm":
        await rig.controllers.settle(rig.route(name, replica))
        return replica
    await rig.controllers.settle(rig.route(name))

    def woken(_app: str, _version: int | None) -> pb.WakeResponse:
        waking.append(asyncio.ensure_future(rig.controllers.put(rig.route(name, replica))))
        return pb.WakeResponse(ok=True)

    rig.controllers.on_wake = woken
    return replica


waking: list["asyncio.Future[int]"] = []


async def answers_to(rig: Rig, data: bytes) -> bytes:
    """Send bytes and read until the connection ends, which may hold more than one answer."""
    reader, writer = await rig.connect()
    try:
        async with asyncio.timeout(20):
            writer.write(data)
            got = await reader.readuntil(b"\r\n\r\n")
            # Who has seen an answer and says that no more will come is not kept waiting.
            writer.write_eof()
            return got + await reader.read(-1)
    finally:
        writer.close()


@pytest.mark.parametrize("way", ["warm", "asleep"])
@pytest.mark.parametrize("name", CASES)
async def test_hidden_requests_are_refused_or_plain_bytes(rig: Rig, name: str, way: str) -> None:
    case = CASES[name]
    app = f"{way}-{list(CASES).index(name)}"
    replica = await served(rig, app, way)
    head = (
        f"POST /seen HTTP/1.1\r\nhost: {rig.host(app)}\r\nconnection: close\r\n"
        f"authorization: Bearer {rig.keys.token()}\r\n{case.lines}\r\n"
    )
    got = await answers_to(rig, head.encode() + case.rest)
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", got)] == [case.status]
    if case.status == 200:
        (seen,) = replica.seen
        assert (seen.method, seen.target, seen.body) == ("POST", "/seen", case.body)
        framing = [n for n, _ in seen.headers if n in ("content-length", "transfer-encoding")]
        assert len(framing) == 1
        return
    check_error(case.status, got.partition(b"\r\n\r\n")[2])
    assert not replica.seen


SPOOFED = (
    *("x-ignite-execution-id", "x-ignite-function-id", "x-ignite-organization-id"),
    *("x-ignite-via", "x-ignite-error", "x-ignite-overflow", "x-ignite-function-version"),
    *("x_ignite_organization_id", "X-Ignite-Anything", "x-organization-name"),
    *("x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on"),
    *("x-envoy-original-path", "x-envoy-internal", "x-envoy-decorator-operation"),
)


@pytest.mark.parametrize("way", ["warm", "asleep"])
async def test_no_header_of_ours_comes_from_outside(rig: Rig, way: str) -> None:
    replica = await served(rig, f"spoof-{way}", way)
    headers = [(name, "evil") for name in SPOOFED]
    forwarded = ("x-forwarded-for", "203.0.113.9")
    got = await rig.get(rig.host(f"spoof-{way}"), headers=[*headers, forwarded])
    assert got.status == 200
    (seen,) = replica.seen
    assert not [name for name, value in seen.headers if "evil" in value]
    assert seen.header("x-ignite-function-id") == f"acme/spoof-{way}"
    assert seen.header("x-ignite-organization-id") == "org-acme"
    # Who asked is always last: what a client says of itself stands before it.
    first, last = (seen.header("x-forwarded-for") or "").split(",")
    assert (first, last) != (forwarded[1], forwarded[1])
    assert seen.header("authorization") is None


HTTP2_CASES: dict[str, list[tuple[str, str]]] = {
    "connection": [("connection", "close")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "te": [("te", "gzip")],
    "upgrade": [("upgrade", "h2c")],
    "keep-alive": [("keep-alive", "timeout=1")],
    "line end in a value": [("x-a", "b\r\nhost: evil")],
    "NUL in a value": [("x-a", "b\0c")],
    "line end in a name": [("x-a\r\nhost", "evil")],
    "colon in a name": [("x-a:b", "c")],
    "capitals in a name": [("X-A", "b")],
    "a second path": [(":path", "/hidden")],
    "a second authority": [(":authority", "localhost")],
    "an unknown pseudo field": [(":evil", "1")],
    "two lengths": [("content-length", "2"), ("content-length", "3")],
    "a length that is too large": [("content-length", "100")],
    "a length that is too small": [("content-length", "1")],
    "a negative length": [("content-length", "-1")],
}


PATHS = ("/a\r\nhost: evil", "/a b", "", "a", "*", "/a\0b")


async def test_nothing_hides_in_a_request_that_is_made_http_1(rig: Rig) -> None:
    """All at once: a connection that broke a rule is closed a second after it."""
    cases = {f"header: {name}": ("/seen", more) for name, more in HTTP2_CASES.items()}
    cases |= {f"path: {path!r}": (path, []) for path in PATHS}
    async with asyncio.TaskGroup() as tasks:
        for number, (name, (path, more)) in enumerate(cases.items()):
            tasks.create_task(one_of_http_2(rig, name, f"two-{number}", path, more))


async def one_of_http_2(
    rig: Rig, name: str, app: str, path: str, more: list[tuple[str, str]]
) -> None:
    """Send one request; it is refused, or arrives as what it was."""
    replica = await served(rig, app, "warm")
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path)]
    token = ("authorization", f"Bearer {rig.keys.token()}")
    headers = [*pseudo, (":authority", rig.host(app)), token, *more]
    outcome = await asyncio.to_thread(http2, rig.port, headers, b"hi")
    assert outcome.is_reset or outcome.status in (200, 400, 404), (name, outcome)
    assert len(replica.seen) == (outcome.status == 200), (name, outcome)
    for seen in replica.seen:
        assert (seen.method, seen.target, seen.body) == ("POST", "/seen", b"hi"), name
        assert seen.header("host") == rig.host(app), name
    if name.startswith("path: "):
        assert not replica.seen, name


def http2(port: int, headers: list[tuple[str, str]], body: bytes) -> Outcome:
    """Send one request on a connection of its own."""
    with connect(("127.0.0.1", port)) as wire:
        return Http2(wire).exchange(headers, body)
