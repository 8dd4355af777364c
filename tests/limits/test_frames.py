"""gRPC that no client library sends, at its own listener and through the HTTP one: every call ends
in a status, which is the caller's mistake, and the server says nothing of its insides."""

import gzip
import re
import zlib

import pytest
from tests.e2e.server import Server
from tests.limits.wire import Headers, Http2, Outcome, check_words, connect, grpc_frame

LIST = "/dodil.ignite.v1.ComputeService/ListApps"
OK, INVALID_ARGUMENT, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
ZEROS = bytes(30_000_000)

# Statuses that say that we failed. INTERNAL is what gRPC itself prescribes for broken frames.
OURS = {2, 14, 15}


def head(path: str = LIST, *more: tuple[str, str], method: str = "POST") -> list[tuple[str, str]]:
    pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
    ]
    return [*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *more]


CASES: dict[str, tuple[Headers, bytes, set[int | None]]] = {
    "no protobuf": (head(), grpc_frame(b"\xff\xff\xff"), {INVALID_ARGUMENT}),
    "protobuf cut off": (head(), grpc_frame(b"\x0a\x05ac"), {INVALID_ARGUMENT}),
    "text that is no UTF-8": (head(), grpc_frame(b"\x0a\x02\xff\xfe"), {INVALID_ARGUMENT}),
    "groups without end": (head(), grpc_frame(b"\x0b" * 10_000), {INVALID_ARGUMENT}),
    "a frame over the bound": (head(), grpc_frame(b"", size=1_000_001), {EXHAUSTED}),
    "the largest frame": (head(), grpc_frame(b"", size=0xFFFFFFFF), {EXHAUSTED}),
    "compressed, it does not say how": (head(), grpc_frame(b"x", flag=1), {INTERNAL}),
    "an unknown compression": (
        head(LIST, ("grpc-encoding", "br")), grpc_frame(b"x", flag=1), {INTERNAL, UNIMPLEMENTED}
    ),
    "no gzip": (head(LIST, ("grpc-encoding", "gzip")), grpc_frame(b"x", flag=1), {INTERNAL}),
    "a bomb of gzip": (
        head(LIST, ("grpc-encoding", "gzip")),
        grpc_frame(gzip.compress(ZEROS), flag=1),
        {EXHAUSTED},
    ),
    "a bomb of deflate": (
        head(LIST, ("grpc-encoding", "deflate")),
        grpc_frame(zlib.compress(ZEROS), flag=1),
        {EXHAUSTED},
    ),
    "a method that is not there": (head("/a.B/C"), grpc_frame(b""), {UNIMPLEMENTED}),
    "the admin's method": (
        head("/dodil.ignite.v1.AdminService/ListRoles"), grpc_frame(b""), {UNIMPLEMENTED}
    ),
    "no number for a deadline": (
        head(LIST, ("grpc-timeout", "soon")), grpc_frame(b""), {INTERNAL, INVALID_ARGUMENT}
    ),
    "bytes that are no base64": (head(LIST, ("x-bin", "!!!")), grpc_frame(b""), {INTERNAL, OK}),
    "two bearers": (
        head(LIST, ("authorization", "Bearer x")), grpc_frame(b""), {16}
    ),
    "JSON in a frame": (
        [*head()[:4], ("content-type", "application/grpc+json"), ("te", "trailers")],
        grpc_frame(b"{}"),
        {INVALID_ARGUMENT},
    ),
    "not POST": (head(method="GET"), b"", {None, UNIMPLEMENTED}),
    "without te": ([pair for pair in head() if pair[0] != "te"], grpc_frame(b""), {None, OK}),
}  # fmt: skip


@pytest.fixture(params=["grpc", "http"])
def address(server: Server, request: pytest.FixtureRequest) -> tuple[str, int]:
    """The two listeners that take gRPC."""
    host, _, port = server.connection["grpc"].rpartition(":")
    return (host, int(port)) if request.param == "grpc" else server.http_address


def exchange(server: Server, address: tuple[str, int], headers: Headers, body: bytes) -> Outcome:
    """Send one call with a good token on a connection of its own."""
    token = ("authorization", f"Bearer {server.token}")
    with connect(address) as wire:
        return Http2(wire).exchange([*headers, token], body)


@pytest.mark.parametrize("name", CASES)
def test_ends_in_a_status_of_the_caller(
    server: Server, address: tuple[str, int], name: str
) -> None:
    headers, body, statuses = CASES[name]
    outcome = exchange(server, address, headers, body)
    assert outcome.grpc_status in statuses, outcome
    assert outcome.grpc_status not in OURS
    assert outcome.is_reset or outcome.status in (200, 404), outcome
    check_words(re.sub(r"\d+", "", str(outcome.headers)).encode() + outcome.body)
    assert exchange(server, address, head(), grpc_frame(b"")).grpc_status == OK


def test_calls_that_never_bring_a_message_cost_others_nothing(
    server: Server, address: tuple[str, int]
) -> None:
    token = ("authorization", f"Bearer {server.token}")
    with connect(address) as wire:
        stuck = Http2(wire)
        for ends in (True, False) * 200:
            stuck.open([*head(), token], ends=ends)
        assert exchange(server, address, head(), grpc_frame(b"")).grpc_status == OK
    assert exchange(server, address, head(), grpc_frame(b"")).grpc_status == OK


def test_streams_that_are_reset_at_once_cost_others_nothing(
    server: Server, address: tuple[str, int]
) -> None:
    token = ("authorization", f"Bearer {server.token}")
    with connect(address) as wire:
        rapid = Http2(wire)
        try:
            for _ in range(2000):
                rapid.cancel(rapid.open([*head(), token]))
        except OSError:
            assert rapid is not None  # who resets too much loses its connection
    assert exchange(server, address, head(), grpc_frame(b"")).grpc_status == OK


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("grpc-timeout", "soon", "20S"),
        ("grpc-encoding", "br", "gzip"),
        ("x-bin", "!!!", "AAAA"),
    ],
)
def test_what_one_caller_sends_spoils_no_other_callers_fields(
    server: Server, address: tuple[str, int], field: str, bad: str, good: str
) -> None:
    """Callers share the connection behind the HTTP listener, and with it its compressed names."""
    for _ in range(3):
        exchange(server, address, head(LIST, (field, bad)), grpc_frame(b""))
        outcome = exchange(server, address, head(LIST, (field, good)), grpc_frame(b""))
        assert outcome.grpc_status == OK, outcome
