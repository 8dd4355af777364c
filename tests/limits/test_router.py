"""Requests to any host, path and method: who is called is the app of that host, or nobody."""

import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.server import Answer, Server, read_answer
from tests.limits.apps import App
from tests.limits.conftest import ECHO
from tests.limits.test_frames import LIST, exchange, head
from tests.limits.wire import Http2, Outcome, check_words, connect, grpc_frame

EXAMPLES = int(os.environ.get("LIMITS_EXAMPLES", "150"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

APPS = ("echo", "neighbour")
WORDS = st.sampled_from(
    [
        *("echo-acme", "neighbour-acme", "echo-globex", "ECHO-acme", "acme", "echo", "api", "*"),
        *("localhost", "LOCALHOST", "127.0.0.1", "[::1]", "active", "internal", "fallback"),
        *("com", "", "xn--bcher-kva", "a" * 63, "-", "_", "@1", "\xe9", "%65cho-acme"),
    ]
)
HOSTS = st.one_of(
    st.sampled_from([f"{app}-acme.localhost" for app in APPS]),
    st.lists(WORDS, min_size=1, max_size=4).map(".".join),
    st.tuples(
        st.sampled_from([f"{app}-acme.localhost" for app in APPS]),
        st.sampled_from([".", ":80", ":", ":99999", ":x", "@x", "#", "/", "\\", "\t", ",", "%00"]),
        WORDS,
    ).map("".join),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
PARTS = st.sampled_from(
    [
        *("v1", "ignite", "app", "acme", "globex", "echo", "neighbour", "invoke", "draft", "test"),
        *("versions", "1", "0", "-1", "secrets", "health", "healthz", "realms", "dodil", "mcp"),
        *("..", ".", "", "%2e%2e", "%2f", "%00", "%ff", ";", "a b", "?", "?limit=1", "%", "%zz"),
        *("protocol", "openid-connect", "certs", ".well-known", "chat", "completions", "models"),
    ]
)
PATHS = st.one_of(
    st.lists(PARTS, max_size=7).map(lambda parts: "/" + "/".join(parts)),
    st.text(st.characters(max_codepoint=255), max_size=40),
)
METHODS = st.sampled_from(
    ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X" * 20, "M-SEARCH"]
)
NAMES = st.sampled_from(
    [
        *("x-ignite-via", "x-ignite-function-id", "x-ignite-function-version", "x-ignite-error"),
        *("x-envoy-original-path", "x-envoy-upstream-alt-stat-name", "x-envoy-force-trace"),
        *("x-original-url", "x-rewrite-url", "x-http-method-override", "x-forwarded-host"),
        *("forwarded", "via", "range", "accept", "accept-encoding", "cookie", "origin", "te"),
        *("content-type", "grpc-timeout", "x-request-id", "traceparent", "proxy-connection"),
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            *("neighbour", "acme/neighbour", "internal", "application/grpc", "application/json"),
            *("1", "99999999999", "bytes=0-1,2-", "http://neighbour-acme.localhost/", "trailers"),
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=40),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@pytest.fixture(scope="module", autouse=True)
def neighbour(server: Server, echo: App) -> Iterator[App]:
    """Another app, whose answers must not come for the host of the first."""
    app = App(server, "neighbour")
    app.create()
    app.publish(ECHO)
    yield app
    app.delete()


def check(host: str, status: int, body: bytes) -> None:
    """Assert that an answer is no failure of ours, and the app's whose host it was."""
    assert 200 <= status < 500 or status == 501, (host, status, body)
    said = app_in(body)
    if said is None:
        check_words(body)
    else:
        assert status == 200
        assert host.strip().partition(":")[0].lower() == f"{said.split('/')[1]}-acme.localhost"


def app_in(body: bytes) -> str | None:
    """Return which app wrote an answer, None where none did."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found.get("app") if isinstance(found, dict) and "size" in found else None


def visible(text: str) -> str:
    """Return the visible characters of a text."""
    return "".join(char for char in text if "!" <= char <= "~")


def request(server: Server, start: str, host: str, fields: list[tuple[str, str]]) -> Answer:
    """Send a head as it is and read the answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    token = f"authorization: Bearer {server.token}\r\n"
    text = f"{start} HTTP/1.1\r\nhost: {host}\r\n{token}{lines}connection: close\r\n\r\n"
    with connect(server.http_address) as wire:
        wire.sendall(text.encode("latin-1"))
        return read_answer(wire)


@FUZZ
@given(host=HOSTS, path=PATHS, method=METHODS, fields=FIELDS)
def test_http_1(
    server: Server, host: str, path: str, method: str, fields: list[tuple[str, str]]
) -> None:
    host, path = (text.translate(NO_LINES) for text in (host, path))
    plain = [(name, value.translate(NO_LINES)) for name, value in fields]
    answer = request(server, f"{method} {path}", host, plain)
    check(host, answer.status, answer.body)


NO_LINES = {13: None, 10: None}
"""Line ends are the subject of `test_smuggling`; here they would begin another request."""


@settings(FUZZ, max_examples=max(EXAMPLES // 15, 1))
@given(host=HOSTS, path=PATHS, method=METHODS, fields=FIELDS)
def test_http_2(
    server: Server, host: str, path: str, method: str, fields: list[tuple[str, str]]
) -> None:
    # Fewer, and of what is visible: for any other byte Envoy ends the connection, a second later.
    host, path = visible(host), "/" + visible(path).lstrip("/")
    fields = [(name, visible(value)) for name, value in fields]
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", host)]
    token = ("authorization", f"Bearer {server.token}")
    with connect(server.http_address) as wire:
        outcome: Outcome = Http2(wire).exchange([*pseudo, token, *fields])
    if outcome.status:
        check(host, outcome.status, outcome.body)
        assert outcome.grpc_status not in (2, 14, 15), outcome


@FUZZ
@given(
    path=st.one_of(PATHS, st.just(LIST), PARTS.map(lambda part: f"{LIST}{part}")),
    fields=FIELDS,
    message=st.binary(max_size=60),
)
def test_the_grpc_listener(
    server: Server, path: str, fields: list[tuple[str, str]], message: bytes
) -> None:
    name, _, port = server.connection["grpc"].rpartition(":")
    headers = [*head(path), *(pair for pair in fields if pair[0] != "content-type")]
    outcome = exchange(server, (name, int(port)), headers, grpc_frame(message))
    assert outcome.is_reset or outcome.grpc_status not in (None, 2, 14, 15), outcome
    check_words(f"{outcome.headers.get('grpc-message')}".encode() + outcome.body)


@pytest.mark.parametrize(
    "target",
    [
        *("//echo/../neighbour", "/../../etc/passwd", "/%2e%2e/%2e%2e/x", "/v1/ignite/health"),
        *("/..;/x", "/realms/dodil/protocol/openid-connect/certs", "/x?y=/../z", "/%00"),
    ],
)
@pytest.mark.parametrize("app", APPS)
def test_no_path_of_an_app_leads_elsewhere(server: Server, app: str, target: str) -> None:
    answer = request(server, f"GET {target}", server.host_of(app), [])
    assert (answer.status, answer.json()["app"]) == (200, f"acme/{app}")
