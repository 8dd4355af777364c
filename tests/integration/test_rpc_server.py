"""The gRPC library over real sockets: every interceptor, all four call kinds, a graceful stop."""
# ruff: noqa: N802 - methods have the contract's names

import asyncio
import logging
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from ignite.domain import errors
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)
from ignite.rpc.auth import BearerAuth, CertificateAuth, principal_of
from ignite.rpc.handlers import Context
from ignite.rpc.metrics import RpcMetrics
from ignite.rpc.policy import MethodPolicy, policies_of
from ignite.rpc.request_id import request_id
from ignite.rpc.server import Bind, GrpcServer, ServerOptions, Service, grpc_component
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

COMPUTE = "dodil.ignite.v1.ComputeService"
RAW = "test.Raw"
ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
VIEWER = (("authorization", "Bearer viewer"),)


class Verifier:
    """Believes two tokens."""

    async def verify(self, token: str) -> Principal:
        scopes = {
            "viewer": frozenset({Scope.GET_APP, Scope.INVOKE_APP}),
            "nobody": frozenset[Scope](),
        }
        if token not in scopes:
            raise errors.Unauthenticated("the token is not good")
        return Principal(subject=token, organization=ACME, scopes=scopes[token])


class Compute(pb_grpc.ComputeServiceServicer):
    """Fails or answers as the app's name asks."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.reached = asyncio.Event()
        self.finish = asyncio.Event()

    async def GetApp(self, request: pb.GetAppRequest, context: Context) -> pb.GetAppResponse:
        match request.app_name:
            case "missing":
                raise errors.AppNotFound("no app 'missing'")
            case "bad":
                raise errors.InvalidArgument("is wrong", field="app_name", details={"max": "3"})
            case "long":
                raise errors.NotFound("x" * 100_000, details={"k": "v" * 100_000})
            case "broken":
                raise ValueError("password=hunter2 at /secret/path")
            case "late":
                raise TimeoutError
            case "group":
                raise ExceptionGroup("tasks", [errors.Unavailable("part is away")])
            case "wait":
                self.reached.set()
                await self.finish.wait()
            case "forever":
                self.reached.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.closed.set()
        principal = principal_of(context)
        response = pb.GetAppResponse()
        response.app.id = f"{principal.organization.name}/{request.app_name}"
        response.app.description = request_id()
        return response

    async def Invoke(
        self, request: pb.InvokeRequest, context: Context
    ) -> AsyncIterator[pb.InvokeResponse]:
        try:
            yield pb.InvokeResponse(head=pb.InvokeHead(status_code=200))
            if request.app_name == "breaks":
                raise errors.Unavailable("the replica broke off")
            while request.app_name == "endless":
                yield pb.InvokeResponse(chunk=b"x" * 65536)
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def HealthCheck(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse()


def add_raw(servicer: object, server: grpc.aio.Server) -> None:
    """A service of bytes with the two kinds that take a stream."""

    async def gather(requests: AsyncIterator[bytes], context: Context) -> bytes:
        found = b""
        async for part in requests:
            if part == b"fail":
                raise errors.ResourceExhausted("too much")
            found += part
        return found

    async def echo(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for part in requests:
            if part == b"fail":
                raise errors.ResourceExhausted("too much")
            yield part + str(principal_of(context).subject).encode()

    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                RAW,
                {
                    "Gather": grpc.stream_unary_rpc_method_handler(gather),
                    "Echo": grpc.stream_stream_rpc_method_handler(echo),
                },
            ),
        )
    )


class Fixture:
    def __init__(self, servicer: Compute, path: Path, registry: CollectorRegistry) -> None:
        self.servicer = servicer
        self.registry = registry
        self.path = path
        self.channel = grpc.aio.insecure_channel(
            f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub: Any = pb_grpc.ComputeServiceStub(self.channel)


def component(path: Path, servicer: Compute, metrics: RpcMetrics, **changes: Any) -> GrpcServer:
    policies = {
        **policies_of([COMPUTE]),
        f"/{RAW}/Gather": MethodPolicy(
            scope=Scope.GET_APP, is_public=False, names_organization=False
        ),
        f"/{RAW}/Echo": MethodPolicy(
            scope=Scope.GET_APP, is_public=False, names_organization=False
        ),
    }
    given: dict[str, Any] = {
        "name": "test",
        "binds": [Bind.unix(path)],
        "services": [
            Service(
                name=COMPUTE, add=pb_grpc.add_ComputeServiceServicer_to_server, servicer=servicer
            ),
            Service(name=RAW, add=add_raw, servicer=None),
        ],
        "auth": BearerAuth(Verifier(), policies, frozenset({f"/{COMPUTE}/Invoke"})),
        "metrics": metrics,
        "options": ServerOptions(drain_grace_secs=5, message_bytes=1_000_000),
    }
    return grpc_component(**(given | changes))


@asynccontextmanager
async def running(server: GrpcServer) -> AsyncIterator[asyncio.Task[None]]:
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        try:
            yield task
        finally:
            task.cancel()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Fixture]:
    registry = CollectorRegistry()
    servicer = Compute()
    path = tmp_path / "s"
    async with running(component(path, servicer, RpcMetrics(registry))):
        fixture = Fixture(servicer, path, registry)
        yield fixture
        await fixture.channel.close()


def get(served: Fixture, app: str, organization: str = "acme", **options: Any) -> Any:
    options.setdefault("metadata", VIEWER)
    return served.stub.GetApp(
        pb.GetAppRequest(organization_name=organization, app_name=app), timeout=20, **options
    )


def unary(served: Fixture, method: str) -> Any:
    call: Any = served.channel.unary_unary(method)
    return call(b"")


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def trailer(error: grpc.aio.AioRpcError, key: str) -> Any:
    return dict(error.trailing_metadata()).get(key)


class TestRequestId:
    async def test_callers_id_reaches_handler_and_comes_back(self, served: Fixture) -> None:
        call = get(served, "a", metadata=(*VIEWER, ("x-request-id", "abc-1")))
        assert (await call).app.description == "abc-1"
        assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"

    @pytest.mark.parametrize("given", ["", "with space", "x" * 65, 'quote"'])
    async def test_unsafe_id_is_replaced(self, served: Fixture, given: str) -> None:
        made = (await get(served, "a", metadata=(*VIEWER, ("x-request-id", given)))).app.description
        assert made.startswith("req_")

    async def test_ids_of_calls_differ(self, served: Fixture) -> None:
        first, second = await get(served, "a"), await get(served, "a")
        assert first.app.description != second.app.description


class TestErrors:
    async def test_domain_error_keeps_code_text_reason_and_field(self, served: Fixture) -> None:
        error = await refusal(get(served, "bad"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "app_name: is wrong"
        status = status_pb2.Status.FromString(trailer(error, "grpc-status-details-bin"))
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(info)
        assert status.details[1].Unpack(bad)
        assert (info.reason, info.metadata["max"]) == ("InvalidArgument", "3")
        assert bad.field_violations[0].field == "app_name"
        assert status.code == 3

    async def test_narrow_error_has_its_own_reason(self, served: Fixture) -> None:
        error = await refusal(get(served, "missing"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert b"AppNotFound" in trailer(error, "grpc-status-details-bin")

    async def test_unknown_error_is_masked_and_logged_once(
        self, served: Fixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            error = await refusal(get(served, "broken", metadata=(*VIEWER, ("x-request-id", "r1"))))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "internal error (request r1)"
        assert "hunter2" not in repr(error)
        traces = [record for record in caplog.records if record.exc_info]
        assert len(traces) == 1
        assert traces[0].__dict__["request_id"] == "r1"

    async def test_text_too_long_for_metadata_is_cut(self, served: Fixture) -> None:
        error = await refusal(get(served, "long"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert len(error.details() or "") == 1024

    async def test_timeout_inside_is_deadline_exceeded(self, served: Fixture) -> None:
        assert (await refusal(get(served, "late"))).code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_single_error_of_a_task_group_is_taken_out(self, served: Fixture) -> None:
        error = await refusal(get(served, "group"))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "part is away")

    async def test_message_over_the_bound_is_refused(self, served: Fixture) -> None:
        error = await refusal(get(served, "x" * 1_000_001))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_stream_ends_with_error_after_what_was_sent(self, served: Fixture) -> None:
        call = served.stub.Invoke(pb.InvokeRequest(app_name="breaks"), metadata=VIEWER)
        assert (await call.read()).head.status_code == 200
        error = await refusal(call.read())
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the replica broke off",
        )

    @pytest.mark.parametrize(
        "message",
        [b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\x7fabc"],
        ids=["text", "tag", "cut"],
    )
    async def test_bytes_that_are_no_message_are_the_callers_mistake(
        self, served: Fixture, message: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        call: Any = served.channel.unary_unary(f"/{COMPUTE}/GetApp")
        error = await refusal(call(message, metadata=VIEWER))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "the request cannot be read"
        assert trailer(error, "x-request-id").startswith("req_")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_bytes_that_are_no_message_are_refused_where_answers_stream(
        self, served: Fixture
    ) -> None:
        call: Any = served.channel.unary_stream(f"/{COMPUTE}/Invoke")
        error = await refusal(call(b"\xff\xff\xff", metadata=VIEWER).read())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestFourKinds:
    async def test_stream_in(self, served: Fixture) -> None:
        call: Any = served.channel.stream_unary(f"/{RAW}/Gather")
        assert await call(iter([b"a", b"b"]), metadata=VIEWER) == b"ab"
        error = await refusal(call(iter([b"a", b"fail"]), metadata=VIEWER))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await refusal(call(iter([b"a"])))).code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_stream_both_ways(self, served: Fixture) -> None:
        call: Any = served.channel.stream_stream(f"/{RAW}/Echo")(metadata=VIEWER)
        for part in (b"a", b"b"):
            await call.write(part)
            assert await call.read() == part + b"viewer"
        await call.write(b"fail")
        error = await refusal(call.read())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert trailer(error, "x-request-id").startswith("req_")

    async def test_client_that_leaves_closes_the_generator(self, served: Fixture) -> None:
        call = served.stub.Invoke(pb.InvokeRequest(app_name="endless"), metadata=VIEWER)
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
            await served.servicer.closed.wait()

    async def test_client_that_does_not_read_and_leaves_closes_the_generator(
        self, served: Fixture
    ) -> None:
        call = served.stub.Invoke(pb.InvokeRequest(app_name="endless"), metadata=VIEWER)
        await call.wait_for_connection()
        await call.read()
        await asyncio.sleep(0.2)  # the windows fill, the server blocks in its write
        call.cancel()
        async with asyncio.timeout(10):
            await served.servicer.closed.wait()

    async def test_cancelled_call_is_cancelled_in_the_handler(self, served: Fixture) -> None:
        call = get(served, "forever")
        task = asyncio.ensure_future(_await(call))
        async with asyncio.timeout(10):
            await served.servicer.reached.wait()
            call.cancel()
            await served.servicer.closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _await(call: Any) -> Any:
    return await call


class TestAuthentication:
    async def test_principal_reaches_the_handler(self, served: Fixture) -> None:
        assert (await get(served, "a")).app.id == "acme/a"

    @pytest.mark.parametrize(
        "metadata",
        [
            (),
            (("authorization", "viewer"),),
            (("authorization", "Basic viewer"),),
            (("authorization", "Bearer "),),
            (("authorization", "Bearer forged"),),
            (("authorization", "Bearer viewer"), ("authorization", "Bearer viewer")),
        ],
    )
    async def test_no_good_bearer_is_unauthenticated(
        self, served: Fixture, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        error = await refusal(get(served, "a", metadata=metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_scheme_is_case_insensitive(self, served: Fixture) -> None:
        assert (await get(served, "a", metadata=(("authorization", "bearer viewer"),))).app.id

    async def test_missing_scope_is_denied(self, served: Fixture) -> None:
        error = await refusal(get(served, "a", metadata=(("authorization", "Bearer nobody"),)))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert b"GetApp" in trailer(error, "grpc-status-details-bin")

    async def test_other_organization_is_denied(self, served: Fixture) -> None:
        error = await refusal(get(served, "a", organization="globex"))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_empty_organization_means_the_tokens(self, served: Fixture) -> None:
        assert (await get(served, "a", organization="")).app.id == "acme/a"

    async def test_organization_header_of_the_client_is_ignored(self, served: Fixture) -> None:
        metadata = (*VIEWER, ("x-organization-name", "globex"))
        assert (await get(served, "a", metadata=metadata)).app.id == "acme/a"
        error = await refusal(get(served, "a", organization="globex", metadata=metadata))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_public_organization_is_open_for_named_methods_only(
        self, served: Fixture
    ) -> None:
        call = served.stub.Invoke(
            pb.InvokeRequest(organization_name="public", app_name="a"), metadata=VIEWER
        )
        assert (await call.read()).head.status_code == 200
        error = await refusal(get(served, "a", organization="public"))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_public_method_needs_no_token(self, served: Fixture) -> None:
        await served.stub.HealthCheck(pb.HealthCheckRequest(), timeout=20)

    async def test_method_without_policy_is_denied(self, tmp_path: Path) -> None:
        path = tmp_path / "p"
        auth = BearerAuth(Verifier(), {})
        server = component(path, Compute(), RpcMetrics(CollectorRegistry()), auth=auth)
        async with running(server):
            fixture = Fixture(Compute(), path, CollectorRegistry())
            error = await refusal(get(fixture, "a"))
            await fixture.channel.close()
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED

    async def test_certificate_auth_refuses_a_peer_without_one(self, tmp_path: Path) -> None:
        path = tmp_path / "p"
        server = component(path, Compute(), RpcMetrics(CollectorRegistry()), auth=CertificateAuth())
        async with running(server):
            fixture = Fixture(Compute(), path, CollectorRegistry())
            error = await refusal(get(fixture, "a"))
            await fixture.channel.close()
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


class TestUnbuilt:
    async def test_stub_says_its_name(self, served: Fixture) -> None:
        error = await refusal(served.stub.GetAppCode(pb.GetAppCodeRequest(), metadata=VIEWER))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == "ComputeService.GetAppCode is not built yet"

    async def test_streaming_stub_says_its_name(self, served: Fixture) -> None:
        call = served.stub.StreamAppLogs(pb.StreamAppLogsRequest(), metadata=VIEWER)
        error = await refusal(call.read())
        assert error.details() == "ComputeService.StreamAppLogs is not built yet"

    async def test_authentication_comes_first(self, served: Fixture) -> None:
        error = await refusal(served.stub.GetAppCode(pb.GetAppCodeRequest()))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_unknown_method_is_unimplemented(self, served: Fixture) -> None:
        error = await refusal(unary(served, f"/{COMPUTE}/Nothing"))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


class TestServer:
    async def test_socket_is_for_the_owner_alone(self, served: Fixture) -> None:
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600

    async def test_reflection_and_health_need_no_token(self, served: Fixture) -> None:
        channel: Any = served.channel
        reflect: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in reflect.ServerReflectionInfo(iter([asked]))]
        names = {service.name for service in answers[0].list_services_response.service}
        assert {COMPUTE, "grpc.health.v1.Health"} <= names
        check: Any = health_pb2_grpc.HealthStub(served.channel)
        for name in ("", COMPUTE):
            answer = await check.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_metrics_count_by_method_and_code(self, served: Fixture) -> None:
        await get(served, "a")
        await refusal(get(served, "missing"))
        await refusal(unary(served, "/x.Y/Z"))

        def value(code: str) -> float | None:
            labels = {"method": f"/{COMPUTE}/GetApp", "code": code}
            return served.registry.get_sample_value("ignite_rpc_calls_total", labels)

        assert (value("OK"), value("NOT_FOUND")) == (1, 1)
        running_now = served.registry.get_sample_value(
            "ignite_rpc_calls_running", {"method": f"/{COMPUTE}/GetApp"}
        )
        assert running_now == 0
        methods = {
            sample.labels["method"]
            for metric in served.registry.collect()
            for sample in metric.samples
        }
        assert methods == {f"/{COMPUTE}/GetApp"}

    async def test_stop_lets_calls_under_way_finish_and_refuses_new_ones(
        self, tmp_path: Path
    ) -> None:
        servicer = Compute()
        path = tmp_path / "p"
        async with running(component(path, servicer, RpcMetrics(CollectorRegistry()))) as task:
            fixture = Fixture(servicer, path, CollectorRegistry())
            checks: Any = health_pb2_grpc.HealthStub(fixture.channel)
            watch = checks.Watch(health_pb2.HealthCheckRequest(service=COMPUTE))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            under_way = asyncio.ensure_future(_await(get(fixture, "wait")))
            await servicer.reached.wait()
            task.cancel()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            assert (await refusal(get(fixture, "a"))).code() is grpc.StatusCode.UNAVAILABLE
            servicer.finish.set()
            assert (await under_way).app.id == "acme/wait"
            await fixture.channel.close()

    async def test_call_past_the_grace_is_cancelled(self, tmp_path: Path) -> None:
        servicer = Compute()
        path = tmp_path / "p"
        options = ServerOptions(drain_grace_secs=0.1)
        server = component(path, servicer, RpcMetrics(CollectorRegistry()), options=options)
        async with running(server) as task:
            fixture = Fixture(servicer, path, CollectorRegistry())
            under_way = asyncio.ensure_future(_await(get(fixture, "forever")))
            await servicer.reached.wait()
            task.cancel()
            async with asyncio.timeout(10):
                await servicer.closed.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await under_way
            await fixture.channel.close()

    async def test_port_zero_is_reported_before_ready(self, tmp_path: Path) -> None:
        bound: list[dict[str, int]] = []
        on_bound: Callable[[dict[str, int]], None] = bound.append
        server = component(
            tmp_path / "p",
            Compute(),
            RpcMetrics(CollectorRegistry()),
            binds=[Bind(address="127.0.0.1:0"), Bind.unix(tmp_path / "p")],
            on_bound=on_bound,
        )
        async with running(server):
            port = bound[0]["127.0.0.1:0"]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = pb_grpc.ComputeServiceStub(channel)
                await stub.HealthCheck(pb.HealthCheckRequest(), timeout=20)
