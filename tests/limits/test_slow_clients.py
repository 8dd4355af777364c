"""Clients that send next to nothing: their time is bounded where they hold something, and others
are served meanwhile."""

import select
import socket
from contextlib import ExitStack

import pytest
from tests.e2e.server import Server
from tests.limits.apps import App
from tests.limits.wire import connect

from ignite.gateway import listeners

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The first frames of a connection, and a head that goes on for ever.
HALF_HEADERS = PREFACE + bytes.fromhex("000000040000000000") + bytes.fromhex("00000101000000000182")
HEAD_SECS = 3


def ends_of(wires: dict[str, socket.socket], within: float) -> dict[str, bytes]:
    """Return what each connection got, of those that the server ends in time."""
    got = dict.fromkeys(wires, b"")
    ended: dict[str, bytes] = {}
    names = {wire: name for name, wire in wires.items()}
    while names:
        readable, _, _ = select.select(list(names), [], [], within)
        if not readable:
            return ended
        for wire in readable:
            name = names[wire]
            try:
                data = wire.recv(65_536)
            except ConnectionError:
                data = b""
            got[name] += data
            if not data:
                ended[name] = got[name]
                del names[wire]
    return ended


def grpc_address(server: Server) -> tuple[str, int]:
    """Return the gRPC listener's address."""
    host, _, port = server.connection["grpc"].rpartition(":")
    return host, int(port)


def test_heads_that_do_not_end_are_ended_and_nobody_else_waits(server: Server, echo: App) -> None:
    http, grpc = server.http_address, grpc_address(server)
    opening = {
        "http: half a line": (http, b"GET / HT"),
        "http: half a head": (http, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "),
        "http: nothing": (http, b""),
        "http: half a head of HTTP/2": (http, HALF_HEADERS),
        "grpc: nothing": (grpc, b""),
        "grpc: half a greeting": (grpc, PREFACE[:10]),
    }
    with ExitStack() as stack:
        wires = {}
        for name, (address, data) in opening.items():
            wires[name] = stack.enter_context(connect(address))
            wires[name].sendall(data)
        assert echo.says(b"meanwhile")["said"] == "meanwhile"
        assert server.http("GET", f"/v1/ignite/app/{server.org}").status == 200
        ended = ends_of(wires, HEAD_SECS * 5)
    assert set(ended) == set(opening)
    for name in ("http: half a line", "http: half a head"):
        assert ended[name].startswith(b"HTTP/1.1 408 "), ended[name]
        assert b'"code":4' in ended[name]


@pytest.mark.parametrize("path", ["api", "app"])
def test_a_body_that_trickles_holds_only_its_own_connection(
    server: Server, echo: App, path: str
) -> None:
    host = "localhost" if path == "api" else server.host_of("echo")
    target = f"/v1/ignite/app/{server.org}" if path == "api" else "/"
    head = (
        f"POST {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 10\r\n"
        f"authorization: Bearer {server.token}\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(40):
            wire = stack.enter_context(connect(server.http_address))
            wire.sendall(head.encode() + b"{")
        for number in range(10):
            assert echo.says(f"{number}".encode())["said"] == f"{number}"
            assert server.http("GET", f"/v1/ignite/app/{server.org}").status == 200


def test_who_left_without_a_word_is_asked_for() -> None:
    """A silent stream may be alive for hours; only the kernel can tell that its client is gone."""
    options = {(one["level"], one["name"]): one["int_value"] for one in listeners.keepalive()}
    assert options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    idle, interval, count = (
        options[socket.IPPROTO_TCP, getattr(socket, name)]
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    )
    assert idle + interval * count <= 300
