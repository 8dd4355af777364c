"""A server of the public contract, in this process and in memory, for tests of its clients.

It keeps the rules that a client can see (versions, drafts, masks, reasons) and does no work; what
should go wrong is set by the attributes of `Behaviour`.
"""
# ruff: noqa: N802 - methods carry the names of the contract

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import (  # type: ignore[import-untyped]  # ships no stubs
    error_details_pb2,
    status_pb2,
)

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_secret_pb2 as secret_pb
from ignite.v1.ignite_compute_pb2_grpc import (
    ComputeServiceServicer,
    add_ComputeServiceServicer_to_server,
)
from ignite.v1.ignite_secret_pb2_grpc import (
    SecretServiceServicer,
    add_SecretServiceServicer_to_server,
)

TOKEN = "good-token"
REQUEST_ID = "req-0001"


@dataclass(slots=True)
class Behaviour:
    """What goes wrong, or slowly."""

    compile_error: str = ""
    start_error: str = ""
    is_overtaken: bool = False
    polls_until_active: int = 1
    app_status: int = 200
    streams_log: bool = True
    chunks: tuple[bytes, ...] = (b"hel", b"lo")
    hold_publish: threading.Event | None = None


@dataclass(slots=True)
class App:
    """An app as the fake keeps it."""

    meta: common.AppMeta
    draft: pb.DraftInfo | None = None
    code: bytes = b""
    versions: list[pb.AppVersionInfo] = field(default_factory=list)
    polls: int = 0


class FakeCompute(ComputeServiceServicer):
    """ComputeService over a dictionary."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.apps: dict[tuple[str, str], App] = {}
        self.calls: list[tuple[str, Any]] = []

    def called(self, name: str) -> list[Any]:
        """Return the requests of one method."""
        return [request for method, request in self.calls if method == name]

    def CreateApp(self, request: Any, context: Any) -> Any:
        self._seen("CreateApp", request, context)
        key = (request.organization_name, request.name)
        if key in self.apps:
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "the name is taken", "AppExists")
        meta = common.AppMeta(
            id="/".join(key),
            name=request.name,
            organization_name=request.organization_name,
            description=request.description,
            env=request.env,
            resource_tier=request.resource_tier or common.RESOURCE_TIER_SMALL,
            limits=request.limits,
            scaling=request.scaling,
            deployment_state=common.DEPLOYMENT_STATE_CREATED,
            max_concurrency=request.max_concurrency,
            allow_unauthenticated=request.allow_unauthenticated,
        )
        self.apps[key] = App(meta=meta)
        return pb.CreateAppResponse(
            app_id=meta.id,
            deployment_state=meta.deployment_state,
            applied_tier=meta.resource_tier,
            applied_limits=common.ResourceLimits(memory_mb=256, cpu_millicores=250),
        )

    def GetApp(self, request: Any, context: Any) -> Any:
        return pb.GetAppResponse(app=self._app("GetApp", request, context).meta)

    def ListApps(self, request: Any, context: Any) -> Any:
        self._seen("ListApps", request, context)
        names = sorted(name for org, name in self.apps if org == request.organization_name)
        start = int(request.cursor or 0)
        end = start + (request.limit or 2)
        apps = [
            pb.AppSummary(id=f"{request.organization_name}/{name}", name=name)
            for name in names[start:end]
        ]
        return pb.ListAppsResponse(apps=apps, next_cursor=str(end) if end < len(names) else "")

    def UpdateAppConfig(self, request: Any, context: Any) -> Any:
        meta = self._app("UpdateAppConfig", request, context).meta
        for path in request.update_mask.paths:
            value = getattr(request, path)
            if path == "env":
                meta.env.clear()
                meta.env.update(value)
            elif path in ("limits", "scaling"):
                getattr(meta, path).CopyFrom(value)
            else:
                setattr(meta, path, value)
        return pb.UpdateAppConfigResponse(app=meta)

    def DeleteApp(self, request: Any, context: Any) -> Any:
        self._app("DeleteApp", request, context)
        del self.apps[(request.organization_name, request.app_name)]
        return pb.DeleteAppResponse(deleted=True)

    def GetAppState(self, request: Any, context: Any) -> Any:
        app = self._app("GetAppState", request, context)
        meta = app.meta
        if self.behaviour.is_overtaken:
            meta.target_version = meta.active_version
        if meta.target_version != meta.active_version:
            app.polls += 1
            if app.polls >= self.behaviour.polls_until_active:
                self._settle(app)
        return pb.GetAppStateResponse(
            deployment_state=meta.deployment_state,
            active_version=meta.active_version,
            target_version=meta.target_version,
            ready_replicas=1,
            desired_replicas=1,
            replicas=[
                common.AppReplica(
                    replica_id="r-1", state=common.REPLICA_STATE_READY, ready=True, version=1
                )
            ],
        )

    def _settle(self, app: App) -> None:
        info = app.versions[app.meta.target_version - 1]
        if self.behaviour.start_error:
            info.status = common.VERSION_STATUS_FAILED
            info.error = self.behaviour.start_error
            info.error_reason = "StartFailed"
            return
        info.status = common.VERSION_STATUS_ACTIVE
        app.meta.active_version = info.version
        app.meta.deployment_state = common.DEPLOYMENT_STATE_DEPLOYED
        host = f"{app.meta.name}-{app.meta.organization_name}.localhost"
        app.meta.public_urls[:] = [f"http://{host}:8080"]

    def SaveDraft(self, request: Any, context: Any) -> Any:
        app = self._app("SaveDraft", request, context)
        compile_source = request.code.compile
        body = compile_source.archive or compile_source.source_code
        if not body:
            refuse(context, grpc.StatusCode.UNIMPLEMENTED, "images are not built yet", "NoImages")
        app.code = body
        app.draft = pb.DraftInfo(
            status=common.VERSION_STATUS_DRAFT,
            code_hash=hashlib.sha256(body).hexdigest()[:8],
            code_kind=common.CODE_KIND_SDK,
            created_at_ms=1_700_000_000_000,
            runtime=compile_source.runtime,
        )
        return pb.SaveDraftResponse(draft=app.draft)

    def GetDraftInfo(self, request: Any, context: Any) -> Any:
        return pb.GetDraftInfoResponse(draft=self._app("GetDraftInfo", request, context).draft)

    def CompileDraft(self, request: Any, context: Any) -> Any:
        app = self._app("CompileDraft", request, context)
        draft = self._draft(app, context)
        draft.deploy_id = f"{request.organization_name}/{request.app_name}"
        draft.build_id = "build-1"
        draft.status = common.VERSION_STATUS_DRAFT
        if self.behaviour.compile_error:
            draft.status = common.VERSION_STATUS_FAILED
            draft.error = self.behaviour.compile_error
            draft.error_reason = "DependencyNotFound"
        return pb.CompileDraftResponse(
            deploy_id=draft.deploy_id,
            build_id=draft.build_id,
            status=common.VERSION_STATUS_COMPILING if self.behaviour.streams_log else draft.status,
        )

    def StreamCompileLogs(self, request: Any, context: Any) -> Any:
        self._seen("StreamCompileLogs", request, context)
        organization, _, name = request.deploy_id.partition("/")
        draft = self._draft(self.apps[(organization, name)], context)
        for line in ("resolving", "installing"):
            yield pb.StreamCompileLogsResponse(line=common.BuildLogLine(message=line))
        yield pb.StreamCompileLogsResponse(
            status=draft.status, error=draft.error, error_reason=draft.error_reason
        )

    def GetBuildLog(self, request: Any, context: Any) -> Any:
        self._app("GetBuildLog", request, context)
        lines = [common.BuildLogLine(message=f"stored {number}") for number in range(30)]
        return pb.GetBuildLogResponse(lines=lines)

    def TestDraft(self, request: Any, context: Any) -> Any:
        self._draft(self._app("TestDraft", request, context), context)
        return pb.TestDraftResponse(execution=self._ran(request.payload), status_code=200)

    def TestAppVersion(self, request: Any, context: Any) -> Any:
        self._app("TestAppVersion", request, context)
        return pb.TestAppVersionResponse(execution=self._ran(request.payload), status_code=200)

    def PublishDraft(self, request: Any, context: Any) -> Any:
        app = self._app("PublishDraft", request, context)
        draft = self._draft(app, context)
        number = len(app.versions) + 1
        app.versions.append(
            pb.AppVersionInfo(
                version=number,
                code_hash=draft.code_hash,
                code_kind=draft.code_kind,
                runtime=draft.runtime,
                status=common.VERSION_STATUS_DRAFT,
            )
        )
        app.meta.target_version = number
        app.polls = 0
        return pb.PublishDraftResponse(version=number, target_version=number)

    def ListAppVersions(self, request: Any, context: Any) -> Any:
        app = self._app("ListAppVersions", request, context)
        return pb.ListAppVersionsResponse(versions=reversed(app.versions))

    def GetAppVersion(self, request: Any, context: Any) -> Any:
        app = self._app("GetAppVersion", request, context)
        if not 0 < request.version <= len(app.versions):
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such version", "VersionNotFound")
        snapshot = common.AppMeta()
        snapshot.CopyFrom(app.meta)
        snapshot.version = request.version
        return pb.GetAppVersionResponse(app=snapshot)

    def RollbackApp(self, request: Any, context: Any) -> Any:
        app = self._app("RollbackApp", request, context)
        app.meta.active_version = app.meta.target_version = request.version
        return pb.RollbackAppResponse(
            active_version=request.version, target_version=request.version
        )

    def GetAppCode(self, request: Any, context: Any) -> Any:
        app = self._app("GetAppCode", request, context)
        return pb.GetAppCodeResponse(
            code=app.code,
            file_name="../hello-1.tar.gz",
            version=request.version if request.HasField("version") else app.meta.active_version,
        )

    def Invoke(self, request: Any, context: Any) -> Any:
        self._app("Invoke", request, context)
        status = self.behaviour.app_status
        yield pb.InvokeResponse(head=pb.InvokeHead(status_code=status, execution_id="exec_1"))
        for chunk in self.behaviour.chunks:
            yield pb.InvokeResponse(chunk=chunk)
        yield pb.InvokeResponse(trailer=pb.InvokeTrailer(total_body_bytes=5, duration_ms=1))

    def _ran(self, payload: bytes) -> common.Execution:
        failed = bool(self.behaviour.start_error)
        return common.Execution(
            id="exec_1",
            status=common.EXECUTION_STATUS_FAILED if failed else common.EXECUTION_STATUS_COMPLETED,
            result=b"ran " + payload,
            error=self.behaviour.start_error,
            error_class="user_code" if failed else "",
        )

    def _draft(self, app: App, context: Any) -> pb.DraftInfo:
        if app.draft is None:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "no draft is saved", "NoDraft")
        return app.draft

    def _app(self, method: str, request: Any, context: Any) -> App:
        self._seen(method, request, context)
        app = self.apps.get((request.organization_name, request.app_name))
        if app is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such app", "AppNotFound")
        return app

    def _seen(self, method: str, request: Any, context: Any) -> None:
        check_token(context)
        self.calls.append((method, request))


class FakeSecrets(SecretServiceServicer):
    """SecretService over a dictionary."""

    def __init__(self) -> None:
        self.slots: dict[str, secret_pb.Secret] = {}

    def CreateSecret(self, request: Any, context: Any) -> Any:
        check_token(context)
        metadata = secret_pb.SecretMetadata(
            name=request.name, type=request.value.WhichOneof("value"), created_at_ms=1000
        )
        self.slots[request.name] = secret_pb.Secret(metadata=metadata, value=request.value)
        return secret_pb.CreateSecretResponse(metadata=metadata)

    def GetSecret(self, request: Any, context: Any) -> Any:
        check_token(context)
        if request.name not in self.slots:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such slot", "SecretNotFound")
        return secret_pb.GetSecretResponse(secret=self.slots[request.name])

    def ListSecrets(self, request: Any, context: Any) -> Any:
        check_token(context)
        return secret_pb.ListSecretsResponse(
            secrets=[slot.metadata for slot in self.slots.values()]
        )

    def DeleteSecret(self, request: Any, context: Any) -> Any:
        check_token(context)
        self.slots.pop(request.name, None)
        return secret_pb.DeleteSecretResponse()


def check_token(context: Any) -> None:
    """Refuse a call without the one good token."""
    given = dict(context.invocation_metadata()).get("authorization", "")
    if TOKEN not in given:
        refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the token is not valid", "BadToken")


def refuse(context: Any, code: grpc.StatusCode, message: str, reason: str) -> NoReturn:
    """End a call as the real server does: with a reason in the details and a request id."""
    status = status_pb2.Status(code=code.value[0], message=message)
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="ignite.dodil.io"))
    status.details.append(detail)
    context.set_trailing_metadata(
        (
            ("grpc-status-details-bin", status.SerializeToString()),
            ("x-request-id", REQUEST_ID),
        )
    )
    context.abort(code, message)
    raise AssertionError("abort raises")


@dataclass(frozen=True, slots=True)
class FakeServer:
    """A running fake."""

    address: str
    compute: FakeCompute
    secrets: FakeSecrets

    @property
    def behaviour(self) -> Behaviour:
        """What goes wrong in it."""
        return self.compute.behaviour


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """Serve the contract on a free port of the loopback."""
    compute = FakeCompute(Behaviour())
    secrets = FakeSecrets()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    add_ComputeServiceServicer_to_server(compute, server)
    add_SecretServiceServicer_to_server(secrets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield FakeServer(f"127.0.0.1:{port}", compute, secrets)
    finally:
        server.stop(grace=None).wait(5)
