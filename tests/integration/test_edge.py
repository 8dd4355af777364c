"""The HTTP edge over its real socket and server: HTTP/2 as Envoy speaks it, and HTTP/1.1."""

import asyncio
import base64
import http.client
import json
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2
from tests.fakes.platform import FakePlatformSecrets
from tests.fakes.replies import ScriptedDispatcher, ScriptedReply
from tests.support.clocks import ManualClock
from tests.support.h2client import H2Client, Response, h2_client

from ignite.domain.errors import (
    AppNotFound,
    DeadlineExceeded,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Scope,
)
from ignite.edge.app import EdgeApp, EdgeParts, build_routes
from ignite.edge.protocol import HIGH_WATER_BYTES
from ignite.edge.server import EdgeServer
from ignite.edge.unbuilt import UNBUILT
from ignite.identity.claims import built_in_principal
from ignite.identity.fetch import fetch_unix
from ignite.identity.issuer import Issuer
from ignite.identity.jwks import JwksCache
from ignite.identity.keystore import KeyStore
from ignite.identity.verifier import JwtVerifier
from ignite.ports.identity import AccessToken
from ignite.rpc.calls import CallsUnderWay
from ignite.services.compute.invocations import Invocations
from ignite.settings import GatewaySettings, IdentitySettings, LimitSettings
from ignite.v1 import ignite_model_pb2

ISSUER = "http://localhost:8080/realms/dodil"
REALM = "/realms/dodil"
TOKEN = f"{REALM}/protocol/openid-connect/token"
CERTS = f"{REALM}/protocol/openid-connect/certs"
INVOKE = "/v1/ignite/app/acme/hello/invoke"
ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
FORM = (("content-type", "application/x-www-form-urlencoded"),)
LIMITS = LimitSettings(payload_bytes=1024 * 1024)


class Grant:
    """Knows one client."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.fails: Exception | None = None

    async def grant(self, client_id: str, client_secret: str) -> AccessToken:
        if self.fails is not None:
            raise self.fails
        if (client_id, client_secret) != ("sa_1", "s3cret +%"):
            raise Unauthenticated("unknown account sa_x")
        return self._issuer.issue("sa_1", ACME, {Scope.INVOKE_APP})


@dataclass
class Edge:
    """A running edge and what it was made of."""

    path: Path
    clock: ManualClock
    keys: KeyStore
    issuer: Issuer
    grant: Grant
    dispatcher: ScriptedDispatcher
    client: H2Client
    task: "asyncio.Task[None]"

    def bearer(
        self, *scopes: Scope, organization: Organization = ACME
    ) -> tuple[tuple[str, str], ...]:
        token = self.issuer.issue("sa_1", organization, set(scopes or {Scope.INVOKE_APP}))
        return (("authorization", f"Bearer {token.token}"),)

    async def invoke(self, envelope: object = None, **options: Any) -> Response:
        body = json.dumps(envelope if envelope is not None else {}).encode()
        options.setdefault("headers", self.bearer())
        path = options.pop("path", INVOKE)
        return await self.client.request("POST", path, body, **options)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    clock = ManualClock()
    settings = IdentitySettings()
    keys = KeyStore(FakePlatformSecrets(), settings, clock)
    await keys.load()
    issuer = Issuer(keys, ISSUER, settings, clock)
    dispatcher = ScriptedDispatcher(ScriptedReply(chunks=(b"hello",)))
    grant = Grant(issuer)
    verifier = JwtVerifier(
        keys, issuer=ISSUER, audience="ignite", read=built_in_principal, clock=clock
    )
    parts = EdgeParts(
        issuer=ISSUER,
        identity=settings,
        limits=LIMITS,
        keys=keys,
        grant=grant,
        verifier=verifier,
        invoker=Invocations(dispatcher, LIMITS, GatewaySettings()),
        calls=CallsUnderWay(LIMITS.calls_per_caller),
    )
    path = tmp_path / "edge.sock"
    server = EdgeServer(EdgeApp(build_routes(parts)), path, 5)
    async with running(server) as task, h2_client(path) as client:
        yield Edge(path, clock, keys, issuer, grant, dispatcher, client, task)


@asynccontextmanager
async def running(server: EdgeServer) -> AsyncIterator["asyncio.Task[None]"]:
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        try:
            yield task
        finally:
            task.cancel()


class TestToken:
    async def grant(self, edge: Edge, body: bytes, *headers: tuple[str, str]) -> Response:
        return await edge.client.request("POST", TOKEN, body, (*FORM, *headers))

    async def test_form_fields(self, edge: Edge) -> None:
        body = b"grant_type=client_credentials&client_id=sa_1&client_secret=s3cret+%2B%25"
        response = await self.grant(edge, body)
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store"
        answer = json.loads(response.body)
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 900)
        reply = await edge.invoke(headers=(("authorization", f"Bearer {answer['access_token']}"),))
        assert reply.status == 200

    async def test_basic_authentication(self, edge: Edge) -> None:
        basic = base64.b64encode(b"sa_1:s3cret+%2B%25").decode()
        response = await self.grant(
            edge, b"grant_type=client_credentials", ("authorization", f"Basic {basic}")
        )
        assert response.status == 200

    @pytest.mark.parametrize(
        ("body", "authorization", "status", "word"),
        [
            (
                b"grant_type=client_credentials&client_id=sa_1&client_secret=x",
                "",
                401,
                "invalid_client",
            ),
            (
                b"grant_type=client_credentials&client_id=sa_2&client_secret=x",
                "",
                401,
                "invalid_client",
            ),
            (b"grant_type=client_credentials", "", 401, "invalid_client"),
            (
                b"grant_type=client_credentials&client_id=sa_1&client_secret=",
                "",
                401,
                "invalid_client",
            ),
            (b"grant_type=client_credentials", "Basic !!!", 401, "invalid_client"),
            (b"grant_type=client_credentials", "Basic c2FfMQ==", 401, "invalid_client"),
            (b"grant_type=client_credentials", "Bearer x", 401, "invalid_client"),
            (
                b"grant_type=client_credentials&client_id=b&client_secret=x",
                "Basic YTpi",
                400,
                "invalid_request",
            ),
            (b"grant_type=client_credentials&client_id=b", "Basic YTpi", 401, "invalid_client"),
            (b"client_id=sa_1&client_secret=x", "", 400, "invalid_request"),
            (
                b"grant_type=password&client_id=sa_1&client_secret=x",
                "",
                400,
                "unsupported_grant_type",
            ),
            (
                b"grant_type=a&grant_type=b&client_id=sa_1&client_secret=x",
                "",
                400,
                "invalid_request",
            ),
            (b"\xff\xfe", "", 400, "invalid_request"),
            (b"x" * 20_000, "", 400, "invalid_request"),
            (b"&".join(b"a%d=1" % n for n in range(100)), "", 400, "invalid_request"),
        ],
    )
    async def test_refusals_are_those_of_oauth(
        self, edge: Edge, body: bytes, authorization: str, status: int, word: str
    ) -> None:
        headers = (("authorization", authorization),) if authorization else ()
        response = await self.grant(edge, body, *headers)
        assert (response.status, json.loads(response.body)["error"]) == (status, word)
        assert response.headers["cache-control"] == "no-store"
        assert b"sa_x" not in response.body

    async def test_json_body_is_refused(self, edge: Edge) -> None:
        response = await edge.client.request(
            "POST", TOKEN, b"{}", (("content-type", "application/json"),)
        )
        assert json.loads(response.body)["error"] == "invalid_request"

    async def test_too_many_logins_tell_when_to_come_back(self, edge: Edge) -> None:
        edge.grant.fails = ResourceExhausted("slow down", details={"retry_after_secs": "7"})
        body = b"grant_type=client_credentials&client_id=sa_1&client_secret=x"
        response = await self.grant(edge, body)
        assert (response.status, response.headers["retry-after"]) == (429, "7")

    async def test_store_away_is_temporarily_unavailable(self, edge: Edge) -> None:
        edge.grant.fails = Unavailable("the store is sealed")
        body = b"grant_type=client_credentials&client_id=sa_1&client_secret=x"
        response = await self.grant(edge, body)
        assert response.status == 503
        assert json.loads(response.body)["error"] == "temporarily_unavailable"

    async def test_get_is_not_served(self, edge: Edge) -> None:
        refused = await edge.client.request("GET", TOKEN)
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
        assert json.loads(refused.body)["details"][0]["reason"] == "MethodNotAllowed"


class TestDiscovery:
    async def test_keys_and_document_agree_with_the_tokens(self, edge: Edge) -> None:
        found = await edge.client.request("GET", f"{REALM}/.well-known/openid-configuration")
        document = json.loads(found.body)
        assert document["issuer"] == ISSUER
        assert document["jwks_uri"] == f"http://localhost:8080{CERTS}"
        assert document["token_endpoint"] == f"http://localhost:8080{TOKEN}"
        keys = await edge.client.request("GET", CERTS)
        assert [key["kid"] for key in json.loads(keys.body)["keys"]] == [edge.keys.signing().id]
        assert keys.headers["cache-control"] == "public, max-age=100"
        assert b'"d"' not in keys.body

    async def test_head_is_answered_as_get_without_the_body(self, edge: Edge) -> None:
        for path in (CERTS, f"{REALM}/.well-known/openid-configuration", "/nothing"):
            got = await edge.client.request("GET", path)
            head = await edge.client.request("HEAD", path)
            assert (head.status, head.body) == (got.status, b"")
            assert head.headers["content-length"] == str(len(got.body))
        assert (await edge.client.request("HEAD", TOKEN)).status == 405
        assert (await edge.client.request("POST", CERTS)).headers["allow"] == "GET, HEAD"

    async def test_other_realm_is_not_found(self, edge: Edge) -> None:
        response = await edge.client.request("GET", CERTS.replace("dodil", "other"))
        assert response.status == 404
        assert json.loads(response.body)["code"] == 5

    async def test_another_process_verifies_with_the_keys_of_the_socket(
        self, edge: Edge, tmp_path: Path
    ) -> None:
        kept = tmp_path / "jwks.json"

        def cache(target: str) -> JwksCache:
            return JwksCache(
                fetch_unix(edge.path, target),
                refresh_secs=60,
                min_interval_secs=0,
                monotonic=edge.clock.monotonic,
                kept=kept,
            )

        def believes(keys: JwksCache) -> JwtVerifier:
            return JwtVerifier(
                keys, issuer=ISSUER, audience="ignite", read=built_in_principal, clock=edge.clock
            )

        token = edge.bearer()[0][1].removeprefix("Bearer ")
        assert (await believes(cache(CERTS)).verify(token)).organization == ACME
        # Restarted while the edge answers nothing of use: the file serves.
        assert (await believes(cache("/nothing")).verify(token)).organization == ACME


class TestInvoke:
    async def test_answer_is_the_apps_own_with_our_id_and_trailers(self, edge: Edge) -> None:
        edge.dispatcher.reply = ScriptedReply(
            status=418,
            headers=(
                ("content-type", "text/tea"),
                ("content-length", "5"),
                ("set-cookie", "a=1"),
                ("x-ignite-execution-id", "forged"),
            ),
            chunks=(b"short", b"stout"),
            trailers=(("x-sum", "9"),),
        )
        response = await edge.invoke()
        assert (response.status, response.body) == (418, b"shortstout")
        assert response.headers["content-type"] == "text/tea"
        assert response.headers["set-cookie"] == "a=1"
        assert "content-length" not in response.headers
        (call,) = edge.dispatcher.calls
        assert response.headers["x-ignite-execution-id"] == call.execution_id
        assert response.trailers["total_body_bytes"] == "10"
        assert response.trailers["x-sum"] == "9"
        assert int(response.trailers["duration_ms"]) >= 0

    async def test_without_te_trailers_are_left_out(self, edge: Edge) -> None:
        response = await edge.invoke(trailers=False)
        assert (response.status, response.trailers, response.ended) == (200, {}, True)

    @pytest.mark.parametrize("status", [204, 205, 304])
    async def test_statuses_without_a_body(self, edge: Edge, status: int) -> None:
        edge.dispatcher.reply = ScriptedReply(status=status)
        response = await edge.invoke()
        assert (response.status, response.body, response.ended) == (status, b"", True)

    @pytest.mark.parametrize(
        ("envelope", "method", "target", "body"),
        [
            ({}, "POST", "/", b""),
            (
                {"http": {"method": "HTTP_METHOD_GET", "path": "/a", "query": "b=1"}},
                "GET",
                "/a?b=1",
                b"",
            ),
            ({"http": {"method": "PUT"}, "body": "AAE="}, "PUT", "/", b"\x00\x01"),
            ({"http": {"method": 5}, "body": "-_8"}, "DELETE", "/", b"\xfb\xff"),
            (
                {"http": {"method": 0}, "organizationName": "acme", "appName": "hello"},
                "POST",
                "/",
                b"",
            ),
            ({"organization_name": "acme", "app_name": "hello", "unknown": 1}, "POST", "/", b""),
            ({"http": None, "body": None}, "POST", "/", b""),
        ],
    )
    async def test_envelope_in_either_spelling(
        self, edge: Edge, envelope: object, method: str, target: str, body: bytes
    ) -> None:
        assert (await edge.invoke(envelope)).status == 200
        (call,) = edge.dispatcher.calls
        assert (call.method, call.target, call.body) == (method, target, body)

    async def test_header_list_follows_the_map_and_keeps_repeated_names(self, edge: Edge) -> None:
        lines = [{"name": "B", "value": "1"}, {"name": "b", "value": "2"}]
        for name in ("headerList", "header_list"):
            await edge.invoke({"http": {"headers": {"a": "0"}, name: lines}})
            assert edge.dispatcher.calls[-1].headers == (("a", "0"), ("b", "1"), ("b", "2"))

    @pytest.mark.parametrize(
        "envelope",
        [
            {"http": {"headerList": {}}},
            {"http": {"headerList": ["a"]}},
            {"http": {"headerList": [{"name": 1}]}},
            {"http": {"headerList": [{"value": "x"}]}},
            [],
            "x",
            {"http": 1},
            {"http": {"path": 1}},
            {"http": {"path": "x"}},
            {"http": {"method": "TRACE"}},
            {"http": {"method": True}},
            {"http": {"headers": {"a": 1}}},
            {"http": {"headers": {"a": "1\r\n"}}},
            {"body": "!"},
            {"body": "AAAAA"},
            {"body": 1},
            {"body": "é"},
            {"organizationName": "globex"},
            {"appName": "other"},
            {"appName": 1},
        ],
    )
    async def test_wrong_envelope_is_our_error(self, edge: Edge, envelope: object) -> None:
        response = await edge.invoke(envelope)
        answer = json.loads(response.body)
        assert (response.status, answer["code"]) == (400, 3)
        assert answer["details"][0]["reason"] == "InvalidArgument"
        assert not edge.dispatcher.calls

    async def test_body_that_is_no_json(self, edge: Edge) -> None:
        for body in (b"{", b"\xff", b"[" * 100_000):
            response = await edge.client.request("POST", INVOKE, body, edge.bearer())
            assert response.status == 400

    async def test_payload_over_the_bound(self, edge: Edge) -> None:
        exact = base64.b64encode(b"x" * LIMITS.payload_bytes).decode()
        assert (await edge.invoke({"body": exact})).status == 200
        over = base64.b64encode(b"x" * (LIMITS.payload_bytes + 1)).decode()
        assert (await edge.invoke({"body": over})).status == 400
        huge = await edge.client.request("POST", INVOKE, b"x" * 3_000_000, edge.bearer())
        assert huge.status == 400

    async def test_declared_length_over_the_bound_is_refused_unread(self, edge: Edge) -> None:
        headers = (("content-length", str(10**12)), *edge.bearer())
        stream = await edge.client.send("POST", INVOKE, b"{}", headers, whole=False)
        assert (await edge.client.read(stream)).status == 400

    async def test_request_without_a_body_is_the_default_call(self, edge: Edge) -> None:
        response = await edge.client.request("POST", INVOKE, b"", edge.bearer())
        assert (response.status, edge.dispatcher.calls[0].target) == (200, "/")

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (AppNotFound("no app"), 404, 5),
            (Unavailable("cold start failed", reason="ImagePullFailed"), 503, 14),
            (ResourceExhausted("queue full"), 429, 8),
            (DeadlineExceeded("late"), 504, 4),
            (ValueError("password=hunter2"), 500, 13),
        ],
    )
    async def test_failure_before_the_head_is_our_error(
        self, edge: Edge, error: Exception, status: int, code: int
    ) -> None:
        edge.dispatcher.refuses = error
        response = await edge.invoke()
        answer = json.loads(response.body)
        assert (response.status, answer["code"]) == (status, code)
        assert response.headers["content-type"] == "application/json"
        assert b"hunter2" not in response.body
        assert edge.dispatcher.left.is_set()

    async def test_failure_after_the_head_resets_the_stream_alone(self, edge: Edge) -> None:
        edge.dispatcher.reply = ScriptedReply(chunks=(b"part",), breaks=Unavailable("broke"))
        response = await edge.invoke()
        assert (response.status, response.body) == (200, b"part")
        assert response.reset
        assert not response.trailers
        edge.dispatcher.reply = ScriptedReply(chunks=(b"whole",))
        assert (await edge.invoke()).body == b"whole"

    async def test_chunks_arrive_as_they_come(self, edge: Edge) -> None:
        gate = asyncio.Event()
        edge.dispatcher.reply = ScriptedReply(chunks=(b"first", b"second"), gate=gate)
        stream = await edge.client.send("POST", INVOKE, b"{}", edge.bearer())
        assert (await edge.client.read(stream, until_bytes=5)).body == b"first"
        gate.set()
        assert (await edge.client.read(stream)).body == b"firstsecond"

    async def test_client_that_leaves_disconnects_the_replica(self, edge: Edge) -> None:
        edge.dispatcher.reply = ScriptedReply(chunks=(b"a", b"b"), gate=asyncio.Event())
        stream = await edge.client.send("POST", INVOKE, b"{}", edge.bearer())
        await edge.client.read(stream, until_bytes=1)
        await edge.client.cancel(stream)
        async with asyncio.timeout(10):
            await edge.dispatcher.left.wait()

    async def test_client_that_leaves_while_it_waits_cancels_the_wait(self, edge: Edge) -> None:
        edge.dispatcher.hangs = True
        stream = await edge.client.send("POST", INVOKE, b"{}", edge.bearer())
        async with asyncio.timeout(10):
            await edge.dispatcher.entered.wait()
            await edge.client.cancel(stream)
            await edge.dispatcher.left.wait()

    async def test_slow_reader_holds_the_replica_back(self, edge: Edge) -> None:
        reply = ScriptedReply(endless=b"x" * 10_000)
        edge.dispatcher.reply = reply
        edge.client.take = False
        stream = await edge.client.send("POST", INVOKE, b"{}", edge.bearer())
        await edge.client.read(stream, until_bytes=60_000)
        seen = -1
        async with asyncio.timeout(20):
            while seen != reply.sent_bytes:
                seen = reply.sent_bytes
                await asyncio.sleep(0.2)
        assert reply.sent_bytes < 65_535 + HIGH_WATER_BYTES + 100_000
        assert not edge.dispatcher.left.is_set()
        await edge.client.cancel(stream)
        async with asyncio.timeout(10):
            await edge.dispatcher.left.wait()

    async def test_large_answer_comes_whole_through_a_small_window(self, edge: Edge) -> None:
        edge.dispatcher.reply = ScriptedReply(chunks=(b"y" * 3_000_000, b"z"))
        response = await edge.invoke()
        assert len(response.body) == 3_000_001
        assert response.trailers["total_body_bytes"] == "3000001"


class TestInvokeAccess:
    async def test_no_bearer_is_401(self, edge: Edge) -> None:
        response = await edge.invoke(headers=())
        assert (response.status, json.loads(response.body)["code"]) == (401, 16)
        assert response.headers["www-authenticate"] == "Bearer"

    async def test_expired_token_is_401(self, edge: Edge) -> None:
        headers = edge.bearer()
        edge.clock.forward(1000)
        assert (await edge.invoke(headers=headers)).status == 401

    async def test_missing_scope_is_403(self, edge: Edge) -> None:
        assert (await edge.invoke(headers=edge.bearer(Scope.GET_APP))).status == 403

    async def test_other_organization_is_403_whatever_the_headers_say(self, edge: Edge) -> None:
        path = "/v1/ignite/app/globex/hello/invoke"
        headers = (*edge.bearer(), ("x-organization-name", "globex"))
        assert (await edge.invoke(path=path, headers=headers)).status == 403
        assert not edge.dispatcher.calls

    async def test_public_organization_is_open(self, edge: Edge) -> None:
        assert (await edge.invoke(path="/v1/ignite/app/public/hello/invoke")).status == 200

    @pytest.mark.parametrize(
        "path", ["/v1/ignite/app/acme/invoke", "/v1/ignite/app/acme/a/b/invoke", "/", "/x?y"]
    )
    async def test_other_paths_are_404(self, edge: Edge, path: str) -> None:
        assert (await edge.invoke(path=path)).status == 404


class TestUnbuilt:
    async def test_names_every_path_of_the_model_service(self) -> None:
        service = ignite_model_pb2.DESCRIPTOR.services_by_name["ModelService"]
        rules = {
            method.name: method.GetOptions().Extensions[annotations_pb2.http]
            for method in service.methods
        }
        found = {
            ("GET", rule.get, name) if rule.get else ("POST", rule.post, name)
            for name, rule in rules.items()
        }
        assert set(UNBUILT) == found

    async def test_says_that_it_is_not_built(self, edge: Edge) -> None:
        response = await edge.client.request("GET", "/v1/models/a-model")
        body = json.loads(response.body)
        assert (response.status, body["code"]) == (501, 12)
        assert body["message"] == "ModelService.GetModel is not built yet"
        assert (await edge.invoke(path="/v1/chat/completions")).status == 501

    async def test_strangers_learn_nothing(self, edge: Edge) -> None:
        assert (await edge.invoke(path="/v1/embeddings", headers=())).status == 401


class TestServer:
    async def test_socket_is_for_the_owner_alone(self, edge: Edge) -> None:
        assert stat.S_IMODE(edge.path.stat().st_mode) == 0o600

    async def test_http1_is_served_too(self, edge: Edge) -> None:
        def fetch() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("edge")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(edge.path))
            connection.request("POST", INVOKE, b"{}", dict(edge.bearer()))
            response = connection.getresponse()
            found = response.status, response.read()
            connection.close()
            return found

        assert await asyncio.to_thread(fetch) == (200, b"hello")

    async def test_stop_lets_the_answer_under_way_finish(self, edge: Edge) -> None:
        gate = asyncio.Event()
        edge.dispatcher.reply = replace(ScriptedReply(chunks=(b"a", b"b")), gate=gate)
        stream = await edge.client.send("POST", INVOKE, b"{}", edge.bearer())
        await edge.client.read(stream, until_bytes=1)
        edge.task.cancel()
        await asyncio.sleep(0.3)
        with pytest.raises((ConnectionError, FileNotFoundError)):
            await asyncio.open_unix_connection(str(edge.path))
        gate.set()
        response = await edge.client.read(stream)
        assert (response.body, response.ended) == (b"ab", True)
        with pytest.raises(asyncio.CancelledError):
            await edge.task
