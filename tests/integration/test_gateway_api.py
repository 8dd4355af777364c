"""The API's host: JSON transcoding, native gRPC, and the paths of the HTTP edge."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig

from ignite.domain.errors import AppNotFound, InvalidArgument
from ignite.rpc.status import DETAILS_KEY, code_of, details_bin
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]

MAX_BODY = 4 * 1024 * 1024


class Compute(pb_grpc.ComputeServiceServicer):
    """Remembers requests; a few methods answer something."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.gate = asyncio.Event()

    async def GetApp(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        if request.app_name == "missing":
            error = AppNotFound("no app 'acme/missing'")
            context.set_trailing_metadata([(DETAILS_KEY, details_bin(error))])
            await context.abort(code_of(error), error.message)
        if request.app_name == "plain":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no details here")
        app = common.AppMeta(
            id="acme/hello",
            resource_tier=common.RESOURCE_TIER_MEDIUM,
            created_at_ms=1716900300000,
            active_version=4,
        )
        return pb.GetAppResponse(app=app)

    async def ListApps(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        if request.limit == 7:
            error = InvalidArgument("at most 200", field="limit")
            context.set_trailing_metadata([(DETAILS_KEY, details_bin(error))])
            await context.abort(code_of(error), error.message)
        return pb.ListAppsResponse()

    async def CreateApp(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        return pb.CreateAppResponse(app_id=f"{request.organization_name}/{request.name}")

    async def SaveDraft(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        return pb.SaveDraftResponse()

    async def StreamAppLogs(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for number in range(2):
            line = pb.AppLogLine(timestamp_ms=number + 1, message=f"line {number}")
            yield pb.StreamAppLogsResponse(line=line)
            if number == 0:
                await self.gate.wait()

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata = {str(k): str(v) for k, v in context.invocation_metadata()}
        return pb.HealthCheckResponse(status="ok", version="1")


@pytest.fixture(scope="module")
def compute() -> Compute:
    return Compute()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(compute: Compute) -> AsyncIterator[Rig]:
    def api(server: grpc.aio.Server) -> None:
        pb_grpc.add_ComputeServiceServicer_to_server(compute, server)

    limits = {"max_json_body_bytes": MAX_BODY, "api_hosts": ["console.example.com"]}
    async with running_rig(api=api, gateway=limits) as running:
        yield running


class TestJson:
    async def test_answers_are_camel_case_with_enum_names_and_no_defaults(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme/hello")
        assert got.status == 200
        assert got.header("content-type") == "application/json"
        assert got.json() == {
            "app": {
                "id": "acme/hello",
                "resourceTier": "RESOURCE_TIER_MEDIUM",
                "createdAtMs": "1716900300000",
                "activeVersion": 4,
            }
        }

    @pytest.mark.parametrize("spelling", ["resourceTier", "resource_tier"])
    async def test_bodies_may_be_in_either_spelling(
        self, rig: Rig, compute: Compute, spelling: str
    ) -> None:
        body = json.dumps({"name": "hello", spelling: "RESOURCE_TIER_LARGE", "unknown": 1})
        got = await rig.get("localhost", "/v1/ignite/app/acme", method="POST", body=body.encode())
        assert got.json() == {"appId": "acme/hello"}
        assert compute.seen[-1].resource_tier == common.RESOURCE_TIER_LARGE

    @pytest.mark.parametrize("query", ["limit=3&cursor=a%20b+c", "limit=3&cursor=a%20b+c&new=1"])
    async def test_queries_fill_fields_and_unknown_ones_are_ignored(
        self, rig: Rig, compute: Compute, query: str
    ) -> None:
        got = await rig.get("localhost", f"/v1/ignite/app/acme?{query}")
        assert got.status == 200
        assert got.json() == {}
        assert (compute.seen[-1].limit, compute.seen[-1].cursor) == (3, "a b c")

    async def test_bytes_are_base64(self, rig: Rig, compute: Compute) -> None:
        code = {
            "compile": {"runtime": {"python": {}}, "sourceCode": base64.b64encode(b"x").decode()}
        }
        got = await rig.get(
            "localhost",
            "/v1/ignite/app/acme/hello/draft",
            method="POST",
            body=json.dumps({"code": code}).encode(),
        )
        assert got.status == 200
        assert compute.seen[-1].code.compile.source_code == b"x"

    async def test_streams_are_lines_as_they_come(self, rig: Rig, compute: Compute) -> None:
        compute.gate.clear()
        reader, writer = await rig.connect()
        head = (
            "GET /v1/ignite/app/acme/a/logs/stream HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {rig.keys.token()}\r\n\r\n"
        )
        writer.write(head.encode())
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert int(await reader.readline(), 16)
            first = json.loads(await reader.readline())
            assert first == {"line": {"timestampMs": "1", "message": "line 0"}}
            compute.gate.set()
            rest = await reader.readuntil(b"\r\n0\r\n")
        assert b'"line 1"' in rest
        writer.close()

    async def test_large_bodies_pass_up_to_the_bound(self, rig: Rig, compute: Compute) -> None:
        async def save(size: int) -> int:
            text = base64.b64encode(b"x" * size).decode()
            code = {"compile": {"archive": text}}
            got = await rig.get(
                "localhost",
                "/v1/ignite/app/acme/hello/draft",
                method="POST",
                body=json.dumps({"code": code}).encode(),
            )
            return got.status

        assert await save(2_500_000) == 200
        assert len(compute.seen[-1].code.compile.archive) == 2_500_000
        assert await save(4_000_000) == 413


class TestErrors:
    async def test_statuses_of_the_api_become_http_with_our_body(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme/missing")
        assert got.status == 404
        body = got.json()
        assert (body["code"], body["message"]) == (5, "no app 'acme/missing'")
        assert body["details"][0]["reason"] == "AppNotFound"

    async def test_field_violations_come_through(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme?limit=7")
        assert got.status == 400
        fields = [d["fieldViolations"][0]["field"] for d in got.json()["details"][1:]]
        assert fields == ["limit"]

    async def test_statuses_without_details(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme/plain")
        assert got.status == 503
        assert got.json()["code"] == 14
        assert got.json()["message"] == "no details here"

    async def test_unbuilt_methods_are_501(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/secrets")
        assert got.status == 501
        assert got.json()["code"] == 12

    @pytest.mark.parametrize(
        "target", ["/", "/nothing", "/v1/ignite/nothing", "/v1/ignite/app/acme/x/y/z/none", "/v2/x"]
    )
    async def test_unknown_paths_are_404_with_our_body(self, rig: Rig, target: str) -> None:
        got = await rig.get("localhost", target)
        assert got.status == 404
        assert got.json()["code"] == 5
        assert got.json()["message"]
        assert isinstance(got.json()["details"], list)

    @pytest.mark.parametrize(
        ("method", "target", "allow"),
        [
            ("HEAD", "/v1/ignite/app/acme/hello", "DELETE, GET"),
            ("HEAD", "/v1/ignite/health", "GET"),
            ("OPTIONS", "/v1/ignite/app/acme/hello/draft?x=1", "GET, POST"),
            ("PUT", "/v1/ignite/app/acme/a.b/config", "PATCH"),
            ("GET", "/v1/ignite/app/acme/hello/draft/publish", "POST"),
            ("DELETE", "/v1/ignite/builds/secrets", "GET, PUT"),
        ],
    )
    async def test_a_method_that_a_path_has_not_got_is_405_and_says_which_it_has(
        self, rig: Rig, compute: Compute, method: str, target: str, allow: str
    ) -> None:
        before = len(compute.seen)
        # Whatever follows on the connection is an answer of its own: no body comes with HEAD's.
        reader, writer = await rig.connect()
        head = f"host: localhost\r\nauthorization: Bearer {rig.keys.token()}\r\n"
        ask = f"{method} {target} HTTP/1.1\r\n{head}\r\n"
        writer.write(
            f"{ask}GET /v1/ignite/health HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            refused, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert refused.startswith(b"HTTP/1.1 405 ")
        assert f"\r\nallow: {allow}\r\n".encode() in refused
        assert b"\r\nx-ignite-error: MethodNotAllowed\r\n" in refused
        body, _, _ = rest.partition(b"HTTP/1.1 200 OK\r\n")
        if method == "HEAD":
            assert body == b""
        else:
            assert json.loads(body)["code"] == 12
            assert json.loads(body)["details"][0]["reason"] == "MethodNotAllowed"
        assert len(compute.seen) == before

    async def test_strangers_are_not_told_which_methods_there_are(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme/hello", method="HEAD", token=None)
        assert (got.status, got.header("allow")) == (401, None)

    @pytest.mark.parametrize(
        ("target", "body"),
        [
            ("/v1/ignite/app/acme", b"{broken"),
            ("/v1/ignite/app/acme", b'{"resourceTier":"NO_SUCH"}'),
        ],
    )
    async def test_bad_json_is_400(self, rig: Rig, target: str, body: bytes) -> None:
        got = await rig.get("localhost", target, method="POST", body=body)
        assert got.status == 400
        assert got.json()["code"] == 3

    async def test_a_bad_number_in_the_path_is_400(self, rig: Rig) -> None:
        got = await rig.get("localhost", "/v1/ignite/app/acme/a/versions/abc")
        assert got.status == 400


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        ["localhost", "LOCALHOST:8080", "api.localhost", "127.0.0.1:1", "[::1]:80", "192.0.2.7"],
    )
    async def test_the_api_answers_at_its_names_and_at_addresses(self, rig: Rig, host: str) -> None:
        assert (await rig.get(host, "/v1/ignite/health")).json()["status"] == "ok"

    async def test_the_api_answers_at_configured_names(self, rig: Rig) -> None:
        assert (await rig.get("console.example.com", "/v1/ignite/health")).status == 200

    async def test_other_names_get_nothing(self, rig: Rig) -> None:
        assert (await rig.get("evil.example.com", "/v1/ignite/health")).status == 404

    async def test_a_client_cannot_send_the_trusted_organization(
        self, rig: Rig, compute: Compute
    ) -> None:
        await rig.get("localhost", "/v1/ignite/health", headers=[("x-organization-name", "evil")])
        assert "x-organization-name" not in compute.metadata
        assert compute.metadata["authorization"].startswith("Bearer ")


def bearer(rig: Rig) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {rig.keys.token()}"),)


class TestGrpc:
    async def test_native_grpc_passes(self, rig: Rig) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
            stub = pb_grpc.ComputeServiceStub(channel)
            answer = await stub.HealthCheck(pb.HealthCheckRequest(), timeout=5)
            assert answer.status == "ok"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetApp(
                    pb.GetAppRequest(app_name="missing"), timeout=5, metadata=bearer(rig)
                )
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert dict(caught.value.trailing_metadata() or ())[DETAILS_KEY]

    async def test_the_admin_service_is_not_here(self, rig: Rig) -> None:
        from ignite.v1 import ignite_admin_pb2 as admin
        from ignite.v1 import ignite_admin_pb2_grpc as admin_grpc

        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
            stub = admin_grpc.AdminServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetClusterHealth(
                    admin.GetClusterHealthRequest(), timeout=5, metadata=bearer(rig)
                )
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestEdge:
    @pytest.mark.parametrize(
        ("method", "target"),
        [
            ("POST", "/v1/ignite/app/acme/hello/invoke"),
            ("POST", "/realms/dodil/protocol/openid-connect/token"),
            ("GET", "/.well-known/openid-configuration"),
            ("GET", "/healthz"),
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("POST", "/mcp"),
        ],
    )
    async def test_its_paths_reach_it_with_trailers(
        self, rig: Rig, method: str, target: str
    ) -> None:
        got = await rig.get(
            "localhost", target, method=method, body=b"" if method == "GET" else b"b"
        )
        assert got.status == 207
        assert rig.edge_seen[-1]["path"] == target
        assert got.trailers == [("x-total", "7")]

    async def test_async_invoke_is_the_api_s(self, rig: Rig) -> None:
        got = await rig.get(
            "localhost", "/v1/ignite/app/acme/hello/invoke-async", method="POST", body=b"{}"
        )
        assert got.status == 501
