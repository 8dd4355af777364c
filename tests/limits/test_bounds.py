"""Every bound on what a caller may ask for, at both listeners: the value at it passes, the one over
it is refused with the field and the bound, and nothing has changed."""

import base64
import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as made_by
from typing import Any

import grpc
import pytest
from tests.e2e.server import Answer, Server, read_answer
from tests.limits.apps import App, call, packed, python
from tests.limits.wire import connect

NAME = "bounds"
ENTRIES = {f"f{number}": b"" for number in range(20)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One bound: the field that a refusal names, the number in it, and values on either side."""

    field: str
    number: str
    over: Mapping[str, Any]
    at: Mapping[str, Any] = made_by(default_factory=dict)


def scaling(**fields: int) -> dict[str, Any]:
    return {"scaling": fields}


def limits(**fields: int) -> dict[str, Any]:
    return {"limits": fields}


def code(archive: bytes = b"", **more: Any) -> dict[str, Any]:
    source = archive or packed("def handler(p, c):\n    return p\n")
    return {"code": python(source, **more)}


def noise(size: int) -> bytes:
    """Return bytes that do not become fewer by packing."""
    state, found = 1, bytearray()
    while len(found) < size:
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        found += (state >> 24).to_bytes(5, "big")
    return bytes(found[:size])


BOUNDS = {
    "name": Bound(field="name", number="63", over={"name": "n" * 64}),
    "description": Bound(
        field="description",
        number="100",
        over={"description": "d" * 101},
        at={"description": "d" * 100},
    ),
    "env entries": Bound(
        field="env",
        number="5",
        over={"env": {f"A{n}": "" for n in range(6)}},
        at={"env": {f"A{n}": "" for n in range(5)}},
    ),
    "env bytes": Bound(
        field="env", number="1000", over={"env": {"A": "v" * 1000}}, at={"env": {"A": "v" * 999}}
    ),
    "env name": Bound(
        field="env", number="256", over={"env": {"A" * 257: ""}}, at={"env": {"A" * 256: ""}}
    ),
    "input schema": Bound(
        field="input_schema",
        number="500",
        over={"input_schema": '{"a":"' + "s" * 493 + '"}'},
        at={"input_schema": '{"a":"' + "s" * 492 + '"}'},
    ),
    "output schema": Bound(
        field="output_schema", number="500", over={"output_schema": '{"a":"' + "s" * 500 + '"}'}
    ),
    "memory": Bound(
        field="limits.memory_mb",
        number="1024",
        over=limits(memory_mb=1025),
        at=limits(memory_mb=1024),
    ),
    "least memory": Bound(
        field="limits.memory_mb", number="64", over=limits(memory_mb=63), at=limits(memory_mb=64)
    ),
    "cpu": Bound(
        field="limits.cpu_millicores",
        number="2000",
        over=limits(cpu_millicores=2001),
        at=limits(cpu_millicores=2000),
    ),
    "least cpu": Bound(
        field="limits.cpu_millicores",
        number="50",
        over=limits(cpu_millicores=49),
        at=limits(cpu_millicores=50),
    ),
    "timeout": Bound(
        field="limits.timeout_secs",
        number="120",
        over=limits(timeout_secs=121),
        at=limits(timeout_secs=120),
    ),
    "least timeout": Bound(
        field="limits.timeout_secs",
        number="1",
        over=limits(timeout_secs=0),
        at=limits(timeout_secs=1),
    ),
    "max replicas": Bound(
        field="scaling.max_replicas",
        number="20",
        over=scaling(max_replicas=21),
        at=scaling(max_replicas=20),
    ),
    "reserved over the cap": Bound(
        field="scaling.reserved_capacity",
        number="3",
        over=scaling(reserved_capacity=4, max_replicas=20),
    ),
    "scale threshold": Bound(
        field="scaling.scale_threshold",
        number="1000000",
        over=scaling(scale_threshold=1_000_001),
        at=scaling(scale_threshold=1_000_000),
    ),
    "least scaledown period": Bound(
        field="scaling.scaledown_period_secs",
        number="2",
        over=scaling(scaledown_period_secs=1),
        at=scaling(scaledown_period_secs=2),
    ),
    "longest scaledown period": Bound(
        field="scaling.scaledown_period_secs",
        number="86400",
        over=scaling(scaledown_period_secs=86_401),
        at=scaling(scaledown_period_secs=86_400),
    ),
    "ports": Bound(
        field="ports", number="2", over={"ports": [1, 2, 3]}, at={"ports": [8080, 8081]}
    ),
    "port": Bound(field="ports", number="65535", over={"ports": [65_536]}, at={"ports": [65_535]}),
    "health path": Bound(
        field="health_path",
        number="256",
        over={"health_path": "/" + "h" * 256},
        at={"health_path": "/" + "h" * 255},
    ),
    "max concurrency": Bound(
        field="max_concurrency",
        number="32",
        over={"max_concurrency": 33},
        at={"max_concurrency": 32},
    ),
    "tags": Bound(field="tags", number="3", over={"tags": list("abcd")}, at={"tags": list("abc")}),
    "tag": Bound(field="tags", number="16", over={"tags": ["t" * 17]}, at={"tags": ["t" * 16]}),
    "categories": Bound(field="category", number="3", over={"category": list("abcd")}),
    "author": Bound(
        field="author", number="16", over={"author": "a" * 17}, at={"author": "a" * 16}
    ),
    "input modality": Bound(field="input_modality", number="16", over={"input_modality": "m" * 17}),
    "output modality": Bound(
        field="output_modality", number="16", over={"output_modality": "m" * 17}
    ),
    "build arguments": Bound(
        field="code.compile.build_args",
        number="3",
        over=code(build_args={f"A{n}": "" for n in range(4)}),
        at=code(build_args={f"A{n}": "" for n in range(3)}),
    ),
    "build argument bytes": Bound(
        field="code.compile.build_args",
        number="100",
        over=code(build_args={"A": "v" * 100}),
        at=code(build_args={"A": "v" * 99}),
    ),
    "archive": Bound(
        field="code.compile.archive",
        number="20000",
        over=code(packed("", {"noise": noise(20_000)})),
        at=code(packed("", {"noise": noise(19_500)})),
    ),
    "archive entries": Bound(
        field="code.archive",
        number="20",
        over=code(packed("", ENTRIES)),
        at=code(packed("", dict(list(ENTRIES.items())[:19]))),
    ),
    "archive unpacked": Bound(
        field="code.archive",
        number="2000000",
        over=code(packed("", {"a": noise(10_000), "zeros": bytes(2_000_000)})),
    ),
    "archive ratio": Bound(
        field="code.archive", number="200", over=code(packed("", {"zeros": bytes(1_500_000)}))
    ),
}


@pytest.fixture
def made(server: Server) -> Iterator[None]:
    """Nothing of the name before, nothing of it after."""
    App(server, NAME).delete()
    yield
    App(server, NAME).delete()


def apps_of(server: Server) -> set[str]:
    """Return the names of all apps, page by page."""
    found: set[str] = set()
    cursor = ""
    while True:
        page = call(
            server, "ListApps", {"organization_name": server.org, "limit": 5, "cursor": cursor}
        )
        found |= {one.name for one in page.apps}
        cursor = page.next_cursor
        if not cursor:
            return found


def field_of(answer: Answer) -> str:
    """Return the field that a refusal names."""
    (info,) = [one for one in answer.json()["details"] if "reason" in one]
    named: str = info["metadata"]["field"]
    return named


def names_number(text: str, number: str) -> bool:
    """Tell whether a text holds a number, alone."""
    return number in re.findall(r"\d+", text)


@pytest.mark.parametrize("name", BOUNDS)
class TestConfig:
    def test_over_it_is_refused_over_grpc(self, server: Server, name: str) -> None:
        bound = BOUNDS[name]
        before = apps_of(server)
        fields = {"organization_name": server.org, "name": NAME, **bound.over}
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "CreateApp", fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        text = caught.value.details() or ""
        assert bound.field in text
        assert names_number(text, bound.number), text
        assert apps_of(server) == before

    def test_over_it_is_refused_over_json(self, server: Server, name: str) -> None:
        bound = BOUNDS[name]
        before = apps_of(server)
        body = {"name": NAME, **bound.over}
        answer = server.http("POST", f"/v1/ignite/app/{server.org}", body)
        assert (answer.status, answer.json()["code"]) == (400, 3)
        assert field_of(answer) == bound.field
        assert names_number(answer.json()["message"], bound.number), answer.json()
        assert apps_of(server) == before

    @pytest.mark.usefixtures("made")
    def test_at_it_is_taken(self, server: Server, name: str) -> None:
        bound = BOUNDS[name]
        fields = {"organization_name": server.org, "name": NAME, **bound.at}
        assert call(server, "CreateApp", fields).app_id == f"{server.org}/{NAME}"


class TestUpdates:
    @pytest.mark.parametrize(
        "name", ["env bytes", "memory", "least scaledown period", "ports", "max concurrency"]
    )
    @pytest.mark.usefixtures("made")
    def test_an_app_that_is_there_is_left_as_it_was(self, server: Server, name: str) -> None:
        App(server, NAME).create(description="as it was", env={"A": "1"})
        ref = {"organization_name": server.org, "app_name": NAME}
        before = call(server, "GetApp", ref)
        path = f"/v1/ignite/app/{server.org}/{NAME}/config"
        body = {**BOUNDS[name].over, "description": "changed"}
        answer = server.http("PATCH", path, body)
        assert (answer.status, field_of(answer)) == (400, BOUNDS[name].field)
        assert call(server, "GetApp", ref) == before

    @pytest.mark.usefixtures("made")
    def test_a_draft_over_the_bound_leaves_the_one_before(self, server: Server) -> None:
        app = App(server, NAME)
        app.create(**code())
        before = app.call("GetDraftInfo", {"app_name": NAME})
        path = f"/v1/ignite/app/{server.org}/{NAME}/draft"
        for name in ("archive", "archive entries", "archive ratio"):
            answer = server.http("POST", path, BOUNDS[name].over)
            assert (answer.status, field_of(answer)) == (400, BOUNDS[name].field)
        assert app.call("GetDraftInfo", {"app_name": NAME}) == before


class TestPages:
    def test_a_page_is_never_longer_than_the_bound(self, server: Server) -> None:
        names = [f"page-{number}" for number in range(7)]
        for name in names:
            App(server, name).create()
        try:
            path = f"/v1/ignite/app/{server.org}"
            assert len(server.http("GET", f"{path}?limit=1000").json()["apps"]) == 5
            assert len(server.http("GET", path).json()["apps"]) == 3
            assert apps_of(server) >= set(names)
        finally:
            for name in names:
                App(server, name).delete()

    @pytest.mark.parametrize("cursor", ["x", "W10", "e30", "A" * 2000, "WyJ2ZXJzaW9ucyIsMV0"])
    def test_a_cursor_that_no_list_gave_is_refused(self, server: Server, cursor: str) -> None:
        answer = server.http("GET", f"/v1/ignite/app/{server.org}?cursor={cursor}")
        assert (answer.status, field_of(answer)) == (400, "cursor")


class TestPayload:
    """50,000 bytes for Invoke by either way, 60,000 for a request by host name."""

    def test_invoke_over_grpc(self, server: Server, echo: App) -> None:
        ref = {"organization_name": server.org, "app_name": "echo"}
        fits = call(server, "Invoke", {**ref, "body": base64.b64encode(b"x" * 50_000).decode()})
        assert fits[0].head.status_code == 200
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "Invoke", {**ref, "body": base64.b64encode(b"x" * 50_001).decode()})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "50000" in (caught.value.details() or "")

    def test_invoke_over_http(self, server: Server, echo: App) -> None:
        path = f"/v1/ignite/app/{server.org}/echo/invoke"
        fits = {"body": base64.b64encode(b"x" * 50_000).decode()}
        assert server.http("POST", path, fits).json()["size"] == 50_000
        over = {"body": base64.b64encode(b"x" * 50_001).decode()}
        answer = server.http("POST", path, over)
        assert (answer.status, field_of(answer)) == (400, "body")
        assert "50000" in answer.json()["message"]
        answer = server.http("POST", path, {"body": "", "filler": "x" * 400_000})
        assert (answer.status, field_of(answer)) == (400, "request body")

    @pytest.mark.parametrize("path", ["draft/test", "versions/1/test"])
    def test_trials(self, server: Server, echo: App, path: str) -> None:
        over = {"payload": base64.b64encode(b"x" * 50_001).decode()}
        answer = server.http("POST", f"/v1/ignite/app/{server.org}/echo/{path}", over)
        assert (answer.status, field_of(answer)) == (400, "payload")
        assert "50000" in answer.json()["message"]

    def test_a_request_by_host_name(self, server: Server, echo: App) -> None:
        assert echo.http(b"x" * 60_000).json()["size"] == 60_000
        assert echo.http(b"x" * 60_001).status == 413
        chunked = (
            f"POST / HTTP/1.1\r\nhost: {server.host_of('echo')}\r\nconnection: close\r\n"
            f"authorization: Bearer {server.token}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        body = b"ea61\r\n" + b"x" * 60_001 + b"\r\n0\r\n\r\n"
        assert raw(server, chunked.encode() + body).status == 413

    @pytest.mark.parametrize(
        ("envelope", "number"),
        [
            ({"path": "/" + "p" * 8192}, "8192"),
            ({"headers": {f"x-{n}": "" for n in range(101)}}, "100"),
            ({"headers": {"x": "v" * 33_000}}, "32768"),
        ],
        ids=["path", "headers", "header bytes"],
    )
    def test_the_envelope(
        self, server: Server, echo: App, envelope: dict[str, Any], number: str
    ) -> None:
        path = f"/v1/ignite/app/{server.org}/echo/invoke"
        answer = server.http("POST", path, {"http": envelope})
        assert answer.status == 400
        assert field_of(answer).startswith("http.")
        assert number in answer.json()["message"]
        ref = {"organization_name": server.org, "app_name": "echo"}
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "Invoke", {**ref, "http": envelope})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert number in (caught.value.details() or "")


class TestMessages:
    """1,000,000 bytes for a message over gRPC and for a body of the JSON API."""

    def test_over_grpc(self, server: Server) -> None:
        fields = {"organization_name": server.org, "name": "x", "description": "d" * 1_000_000}
        with pytest.raises(grpc.RpcError) as caught:
            call(server, "CreateApp", fields)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1000000" in (caught.value.details() or "")

    def test_over_json(self, server: Server) -> None:
        body = {"name": "x", "description": "d" * 1_000_000}
        answer = server.http("POST", f"/v1/ignite/app/{server.org}", body)
        assert (answer.status, answer.json()["code"]) == (413, 8)
        head = (
            f"POST /v1/ignite/app/{server.org} HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {server.token}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunks = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        assert raw(server, head.encode() + chunks * 17 + b"0\r\n\r\n").status == 413

    def test_a_body_of_the_token_endpoint(self, server: Server) -> None:
        path = "/realms/dodil/protocol/openid-connect/token"
        form = {"content-type": "application/x-www-form-urlencoded"}
        answer = server.http("POST", path, b"a=" + b"x" * 17_000, headers=form, token=None)
        assert answer.status == 400
        assert "16384" in answer.json()["error_description"]


class TestSecrets:
    @pytest.mark.parametrize(
        ("name", "git", "field", "number"),
        [
            ("n" * 65, {"username": "u", "token": "t"}, "name", "64"),
            ("git", {"username": "u" * 257, "token": "t"}, "value.git_secret.username", "256"),
            ("git", {"username": "u", "token": "t" * 16_385}, "value.git_secret.token", "16384"),
        ],
        ids=["name", "username", "token"],
    )
    def test_over_it_is_refused_and_not_kept(
        self, server: Server, name: str, git: dict[str, str], field: str, number: str
    ) -> None:
        path = "/v1/ignite/secrets"
        answer = server.http("POST", path, {"name": name, "value": {"gitSecret": git}})
        assert (answer.status, field_of(answer)) == (400, field)
        assert number in answer.json()["message"]
        assert server.http("GET", f"{path}/git").status == 404


def raw(server: Server, data: bytes) -> Answer:
    """Send bytes as they are; an early answer may end the sending."""
    with connect(server.http_address) as wire:
        with contextlib.suppress(ConnectionError):
            wire.sendall(data)
        return read_answer(wire)
