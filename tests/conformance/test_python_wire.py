"""HTTP on the wire: what is refused, what is let through, when a connection ends."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.replicas import Replica, Replicas

ECHO = "def handler(payload, ctx):\n    return b'<' + payload + b'>'\n"
MAX_BODY = 1_000_000


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    """One replica for all: no request may harm the next."""
    made = Replicas()
    yield made.start(ECHO, {"IGNITE_MAX_BODY_BYTES": str(MAX_BODY)})
    made.close()


def exchange(replica: Replica, sent: bytes) -> bytes:
    """Send bytes and return everything up to the end of the connection."""
    with replica.connect() as client:
        client.sendall(sent)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    found = b""
    while part := client.recv(65536):
        found += part
    return found


def read_until(client: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        part = client.recv(65536)
        assert part, found
        found += part
    return found


def minor_faults(replica: Replica) -> int:
    """Return how often the replica's process has asked for a page so far."""
    about = Path(f"/proc/{replica.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(about[7])


def post(*lines: bytes, body: bytes = b"", start: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join((start, b"Host: a", *lines, b"", body))


LAST = b"Connection: close"

REFUSED = [
    ("length-and-chunked", post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    ("chunked-and-length", post(b"Transfer-Encoding: chunked", b"Content-Length: 3"), 400),
    ("two-lengths", post(b"Content-Length: 3", b"Content-Length: 4", body=b"abc"), 400),
    ("equal-lengths", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"), 400),
    ("length-list", post(b"Content-Length: 3, 3", body=b"abc"), 400),
    ("length-sign", post(b"Content-Length: +3", body=b"abc"), 400),
    ("length-negative", post(b"Content-Length: -3", body=b"abc"), 400),
    ("length-hex", post(b"Content-Length: 0x3", body=b"abc"), 400),
    ("length-underscore", post(b"Content-Length: 1_0", body=b"abc"), 400),
    ("length-empty", post(b"Content-Length: "), 400),
    ("length-endless", post(b"Content-Length: " + b"9" * 40), 400),
    ("coding-unknown", post(b"Transfer-Encoding: gzip, chunked"), 501),
    ("coding-twice", post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501),
    ("coding-identity", post(b"Transfer-Encoding: identity"), 501),
    ("coding-vt", post(b"Transfer-Encoding: \x0bchunked"), 400),
    ("coding-in-1.0", post(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), 400),
    ("space-before-colon", post(b"Content-Length : 3", body=b"abc"), 400),
    ("space-in-name", post(b"Content Length: 3"), 400),
    ("no-name", post(b": 3"), 400),
    ("no-colon", post(b"Content-Length"), 400),
    ("folded", post(b"A: b", b" c"), 400),
    ("nul", post(b"A: \0"), 400),
    ("bare-cr", post(b"A: b\rB: c"), 400),
    ("bare-lf", post(b"A: b\nContent-Length: 3"), 400),
    ("lf-only", b"POST / HTTP/1.1\nHost: a\n\n\r\n\r\n", 400),
    ("no-version", post(start=b"POST /"), 400),
    ("two-spaces", post(start=b"POST  / HTTP/1.1"), 400),
    ("tab", post(start=b"POST\t/ HTTP/1.1"), 400),
    ("bad-method", post(start=b"PO(ST / HTTP/1.1"), 400),
    ("relative-target", post(start=b"POST things HTTP/1.1"), 400),
    ("authority-target", post(start=b"CONNECT a:80 HTTP/1.1"), 400),
    ("lower-case-version", post(start=b"POST / http/1.1"), 400),
    ("http-2", post(start=b"POST / HTTP/2.0"), 505),
    ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("huge-head", post(b"A: " + b"x" * 100_000), 431),
    ("endless-head", b"POST / HTTP/1.1\r\nA: " + b"x" * 200_000, 431),
    ("body-over-bound", post(b"Content-Length: %d" % (MAX_BODY + 1)), 413),
    (
        "chunks-over-bound",
        post(b"Transfer-Encoding: chunked", body=b"%x\r\n" % (MAX_BODY + 1)),
        413,
    ),
    ("chunk-size-none", post(b"Transfer-Encoding: chunked", body=b"\r\nabc"), 400),
    ("chunk-size-sign", post(b"Transfer-Encoding: chunked", body=b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk-size-0x", post(b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    ("chunk-size-long", post(b"Transfer-Encoding: chunked", body=b"0" * 30 + b"3\r\nabc"), 400),
    ("chunk-too-long", post(b"Transfer-Encoding: chunked", body=b"3\r\nabcd\r\n0\r\n\r\n"), 400),
    ("chunk-line-endless", post(b"Transfer-Encoding: chunked", body=b"3;" + b"x" * 9000), 400),
    (
        "trailers-endless",
        post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"a: b\r\n" * 30_000),
        431,
    ),
]


@pytest.mark.parametrize(
    ("sent", "status"), [pytest.param(*rest, id=name) for name, *rest in REFUSED]
)
def test_is_refused_and_ends_the_connection(replica: Replica, sent: bytes, status: int) -> None:
    with replica.connect() as client:
        client.sendall(sent)
        head = read_until(client, b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"\r\nConnection: close\r\n" in head
    assert replica.call(b"still") == b"<still>"


ACCEPTED = [
    ("no-host", b"POST / HTTP/1.1\r\nConnection: close\r\n\r\n", b"<>"),
    ("empty-line-first", b"\r\n\r\n" + post(LAST), b"<>"),
    ("absolute-target", post(LAST, start=b"POST http://a/b?c HTTP/1.1"), b"<>"),
    ("asterisk", post(LAST, start=b"OPTIONS * HTTP/1.1"), b"<>"),
    ("names-in-any-case", post(LAST, b"cOnTeNt-LeNgTh:3", body=b"abc"), b"<abc>"),
    ("space-around-value", post(LAST, b"Content-Length: \t 3 \t", body=b"abc"), b"<abc>"),
    ("latin-1-value", post(LAST, b"A: \xe9"), b"<>"),
    (
        "chunk-extension",
        post(LAST, b"Transfer-Encoding: Chunked", body=b'3 ;a="b"\r\nabc\r\n0;x\r\n\r\n'),
        b"<abc>",
    ),
    (
        "trailers",
        post(LAST, b"Transfer-Encoding: chunked", body=b"A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"),
        b"<0123456789>",
    ),
    ("http-1.0", post(b"Content-Length: 2", body=b"ab", start=b"POST / HTTP/1.0"), b"<ab>"),
]


@pytest.mark.parametrize(
    ("sent", "body"), [pytest.param(*rest, id=name) for name, *rest in ACCEPTED]
)
class TestAccepted:
    def test_at_once(self, replica: Replica, sent: bytes, body: bytes) -> None:
        head, _, found = exchange(replica, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found == body

    def test_byte_by_byte(self, replica: Replica, sent: bytes, body: bytes) -> None:
        with replica.connect() as client:
            for byte in sent:
                client.send(bytes([byte]))
            assert read_all(client).endswith(b"\r\n\r\n" + body)


class TestConnection:
    def test_parts_of_many_requests_come_in_turn_and_none_gets_into_another(
        self, replica: Replica
    ) -> None:
        bodies = [bytes([65 + number]) * 60_000 for number in range(8)]
        clients = [replica.connect() for _ in bodies]
        try:
            for client, body in zip(clients, bodies, strict=True):
                client.sendall(post(b"Content-Length: %d" % len(body), LAST))
            for start in range(0, 60_000, 7_000):
                for client, body in zip(clients, bodies, strict=True):
                    client.sendall(body[start : start + 7_000])
            for client, body in zip(clients, bodies, strict=True):
                assert read_all(client).endswith(b"\r\n\r\n<" + body + b">")
        finally:
            for client in clients:
                client.close()

    def test_requests_make_the_kernel_map_no_memory(self, replica: Replica) -> None:
        request = post(b"Content-Length: 1", body=b"x")
        taken: list[int] = []
        with replica.connect() as client:
            for _ in range(2):
                before = minor_faults(replica)
                for _ in range(500):
                    client.sendall(request)
                    read_until(client, b"<x>")
                taken.append(minor_faults(replica) - before)
        # Reads into memory of their own took two each.
        assert min(taken) < 100

    def test_is_kept_for_many_requests(self, replica: Replica) -> None:
        with replica.connect() as client:
            for number in range(5):
                client.sendall(post(b"Content-Length: 1", body=b"%d" % number))
                assert b"Connection: close" not in read_until(client, b"<%d>" % number)

    def test_pipelined_requests_are_answered_in_order(self, replica: Replica) -> None:
        one, two = (post(b"Content-Length: 1", body=byte) for byte in (b"1", b"2"))
        found = exchange(replica, one + two + one + post(LAST))
        assert [part[:3] for part in found.split(b"\r\n\r\n")[1:]] == [
            b"<1>",
            b"<2>",
            b"<1>",
            b"<>",
        ]

    def test_head_has_the_length_and_no_body(self, replica: Replica) -> None:
        found = exchange(replica, post(LAST, start=b"HEAD /x HTTP/1.1"))
        assert b"\r\nContent-Length: 2\r\n" in found
        assert found.endswith(b"\r\n\r\n")

    def test_asks_for_a_body_that_waits_to_be_asked_for(self, replica: Replica) -> None:
        with replica.connect() as client:
            client.sendall(post(b"Content-Length: 2", b"Expect: 100-continue", LAST))
            assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"ab")
            assert read_all(client).endswith(b"<ab>")

    def test_does_not_ask_for_a_body_over_its_bound(self, replica: Replica) -> None:
        found = exchange(
            replica, post(b"Content-Length: %d" % (MAX_BODY + 1), b"Expect: 100-continue")
        )
        assert found.startswith(b"HTTP/1.1 413 ")

    def test_the_answer_to_a_body_over_its_bound_survives_the_body(self, replica: Replica) -> None:
        with replica.connect() as client:
            client.sendall(post(b"Content-Length: %d" % (MAX_BODY + 1)))
            client.sendall(bytes(MAX_BODY + 1))
            assert client.recv(20).startswith(b"HTTP/1.1 413 ")

    def test_the_largest_allowed_body_passes(self, replica: Replica) -> None:
        assert len(replica.call(bytes(MAX_BODY))) == MAX_BODY + 2

    @pytest.mark.parametrize(
        "sent", [b"", b"PO", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
    )
    def test_a_client_that_leaves_early_does_no_harm(self, replica: Replica, sent: bytes) -> None:
        with replica.connect() as client:
            client.sendall(sent)
        assert replica.call(b"on") == b"<on>"


def test_ids_come_from_the_environment_without_headers(replicas: Replicas) -> None:
    replica = replicas.start(
        "def handler(p, c):\n    return c\n",
        {"IGNITE_FUNCTION_ID": "acme/x", "IGNITE_ORGANIZATION_ID": "org_1"},
    )
    assert replica.call() == (
        b'{"execution_id": "", "function_id": "acme/x", "organization_id": "org_1"}'
    )


def test_another_health_path(replicas: Replicas) -> None:
    replica = replicas.start(ECHO, {"IGNITE_HEALTH_PATH": "/live"})
    assert replica.request("GET", "/live").body == b"ok\n"
    assert replica.request("GET", "/healthz").body == b"<>"
