"""Bytes that no client of good will sends: each is refused in our words, and nobody falls over."""

import json
import socket
from collections.abc import Callable

import pytest
from tests.e2e.server import Answer, Server, read_answer

API = "GET /v1/ignite/health HTTP/1.1\r\nhost: localhost\r\n"
APP = "POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"

CASES: dict[str, tuple[int, str]] = {
    "no HTTP": (400, "\x00\x01\x02\r\n\r\n"),
    "no version": (400, "GET /\r\n\r\n"),
    "no host": (400, "GET /v1/ignite/health HTTP/1.1\r\n\r\n"),
    "unknown method": (400, "BREW /v1/ignite/health HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    "space before the colon": (400, API + "x : a\r\n\r\n"),
    "NUL in a header": (400, API + "x: a\x00b\r\n\r\n"),
    "header too large": (431, API + f"x: {'a' * 100_000}\r\n\r\n"),
    "too many headers": (431, API + "".join(f"x{n}: 1\r\n" for n in range(300)) + "\r\n"),
    "two lengths": (400, APP + "content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
    "negative length": (400, APP + "content-length: -1\r\n\r\n"),
    "length without bound": (400, APP + f"content-length: {'9' * 30}\r\n\r\n"),
    "length and chunks": (
        400,
        APP + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "unknown encoding": (501, APP + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunk without size": (400, APP + "transfer-encoding: chunked\r\n\r\nzz\r\n"),
    "another host": (404, "GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"),
    "an inner name": (404, "GET / HTTP/1.1\r\nhost: active.acme.hello\r\n\r\n"),
    "tunnel": (404, "CONNECT {host}:80 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    "token in the query": (401, "GET /?access_token={token} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    "two tokens": (401, APP + "authorization: Bearer x\r\ncontent-length: 0\r\n\r\n"),
    "no UTF-8 in the path": (
        400,
        "GET /v1/ignite/app/acme/%ff HTTP/1.1\r\nhost: localhost\r\n"
        "authorization: Bearer {token}\r\n\r\n",
    ),
    "words for a number": (
        400,
        "GET /v1/ignite/app/acme?limit=many HTTP/1.1\r\nhost: localhost\r\n"
        "authorization: Bearer {token}\r\n\r\n",
    ),
}
FORBIDDEN = ("traceback", "protobuf", "/src/", "<class", "envoy", "metadata size", "upstream")


@pytest.fixture
def send(server: Server, hello: str) -> Callable[[str], Answer]:
    """Send bytes as they are and read the answer."""

    def exchange(text: str) -> Answer:
        data = text.replace("{host}", server.host_of(hello)).replace("{token}", server.token)
        with socket.create_connection(server.http_address, timeout=20) as wire:
            wire.sendall(data.encode("latin-1"))
            return read_answer(wire)

    return exchange


@pytest.mark.parametrize("name", CASES)
def test_is_refused_in_our_words(server: Server, send: Callable[[str], Answer], name: str) -> None:
    status, text = CASES[name]
    answer = send(text)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.body)
    assert body["code"] > 0
    assert body["message"]
    assert not [word for word in FORBIDDEN if word in answer.body.decode().lower()]
    assert server.http("GET", "/v1/ignite/health", token=None).status == 200


def test_large_headers_pass_up_to_the_bound(send: Callable[[str], Answer]) -> None:
    assert send(API + f"x: {'a' * 55_000}\r\nconnection: close\r\n\r\n").status == 200


def test_a_request_may_come_before_the_answer_to_the_last(server: Server, hello: str) -> None:
    one = (
        f"POST / HTTP/1.1\r\nhost: {server.host_of(hello)}\r\n"
        f"authorization: Bearer {server.token}\r\ncontent-length: 1\r\n\r\n"
    )
    with socket.create_connection(server.http_address, timeout=20) as wire:
        wire.sendall("".join(f"{one}{number}" for number in range(3)).encode())
        seen = b""
        while seen.count(b'"hello"') < 3:
            seen += (part := wire.recv(65_536))
            assert part, seen
    assert [seen.index(f'"hello": "{n}"'.encode()) for n in range(3)] == sorted(
        seen.index(f'"hello": "{n}"'.encode()) for n in range(3)
    )


def test_an_app_never_sees_the_callers_token(server: Server) -> None:
    server.deploy(
        "mirror",
        {
            "handler.py": (
                "import os\n"
                "def handler(payload, ctx):\n"
                "    return {**ctx, 'environment': sorted(os.environ)}\n"
            )
        },
    )
    spoofed = {
        "x-ignite-execution-id": "exec_mine",
        "x-ignite-function-id": "globex/other",
        "x-ignite-organization-id": "other",
        "x_ignite_organization_id": "other",
        "x-organization-name": "globex",
    }
    answer = server.http("POST", "/", b"", host=server.host_of("mirror"), headers=spoofed)
    seen = answer.json()
    assert seen["function_id"] == f"{server.org}/mirror"
    assert seen["organization_id"] not in ("", "other")
    assert seen["execution_id"] == answer.headers["x-ignite-execution-id"] != "exec_mine"
    assert not [name for name in seen["environment"] if "TOKEN" in name or "SECRET" in name]
