"""ComputeService over gRPC: the caller from the context, one use case, the answer back.

Methods that this class does not have are answered UNIMPLEMENTED by the server.
"""
# ruff: noqa: N802, ARG002 - methods have the contract's names and arguments

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import DRAFT
from ignite.domain.identity import Organization
from ignite.rpc.auth import principal_of
from ignite.rpc.pagination import decode_cursor, page_limit, page_of
from ignite.services.compute.apps import Apps
from ignite.services.compute.build_logs import BuildLogs
from ignite.services.compute.convert import apps as convert_apps
from ignite.services.compute.convert import builds as convert_builds
from ignite.services.compute.convert import code as convert_code
from ignite.services.compute.convert import configs as convert_configs
from ignite.services.compute.convert import invocations as convert_invocations
from ignite.services.compute.convert import versions as convert_versions
from ignite.services.compute.convert.common import app_ref
from ignite.services.compute.drafts import Drafts
from ignite.services.compute.invocations import Invocations
from ignite.services.compute.trials import Trials
from ignite.services.compute.versions import Versions
from ignite.settings import LimitSettings
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_APPS = "apps"
_VERSIONS = "versions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeUseCases:
    """What the service can do, made once by bootstrap."""

    apps: Apps
    drafts: Drafts
    versions: Versions
    build_logs: BuildLogs
    trials: Trials
    invocations: Invocations


class ComputeServicer(pb_grpc.ComputeServiceServicer):
    """Serves ComputeService."""

    def __init__(
        self,
        use_cases: ComputeUseCases,
        limits: LimitSettings,
        address: PublicAddress,
        *,
        server_version: str,
    ) -> None:
        self._apps = use_cases.apps
        self._drafts = use_cases.drafts
        self._versions = use_cases.versions
        self._build_logs = use_cases.build_logs
        self._trials = use_cases.trials
        self._invocations = use_cases.invocations
        self._limits = limits
        self._address = address
        self._answers = convert_apps.AppAnswers(address)
        self._server_version = server_version

    async def CreateApp(
        self, request: pb.CreateAppRequest, context: Context
    ) -> pb.CreateAppResponse:
        source = convert_code.source(request.code) if request.HasField("code") else None
        config = convert_configs.new_config(request)
        app = await self._apps.create(_organization(context), request.name, config, source)
        return convert_apps.created(app)

    async def GetApp(  # type: ignore[override]  # the message as the bytes it is sent as
        self, request: pb.GetAppRequest, context: Context
    ) -> bytes:
        shown = await self._apps.get(app_ref(_organization(context), request.app_name))
        return self._answers.record(shown)

    async def ListApps(  # type: ignore[override]  # the message as the bytes it is sent as
        self, request: pb.ListAppsRequest, context: Context
    ) -> bytes:
        limit = page_limit(request.limit, self._limits)
        (after,) = decode_cursor(_APPS, request.cursor, [str]) or ("",)
        rows = await self._apps.list(_organization(context), after=str(after), limit=limit + 1)
        page, cursor = page_of(_APPS, rows, limit, lambda app: [app.ref.name])
        return self._answers.page(page, cursor)

    async def UpdateAppConfig(
        self, request: pb.UpdateAppConfigRequest, context: Context
    ) -> pb.UpdateAppConfigResponse:
        change = convert_configs.config_change(request)
        ref = app_ref(_organization(context), request.app_name)
        shown = await self._apps.configure(ref, change)
        return pb.UpdateAppConfigResponse(app=convert_apps.app_meta(shown, self._address))

    async def DeleteApp(
        self, request: pb.DeleteAppRequest, context: Context
    ) -> pb.DeleteAppResponse:
        await self._apps.delete(app_ref(_organization(context), request.app_name))
        return pb.DeleteAppResponse(deleted=True)

    async def GetAppState(
        self, request: pb.GetAppStateRequest, context: Context
    ) -> pb.GetAppStateResponse:
        app, status = await self._apps.state(app_ref(_organization(context), request.app_name))
        return convert_apps.app_state(app, status)

    async def SaveDraft(
        self, request: pb.SaveDraftRequest, context: Context
    ) -> pb.SaveDraftResponse:
        organization = _organization(context)
        draft = await self._drafts.save(
            organization,
            app_ref(organization, request.app_name),
            convert_code.source(request.code),
            convert_versions.schemas(request),
        )
        return pb.SaveDraftResponse(draft=convert_versions.draft_info(draft))

    async def GetDraftInfo(
        self, request: pb.GetDraftInfoRequest, context: Context
    ) -> pb.GetDraftInfoResponse:
        draft = await self._drafts.info(app_ref(_organization(context), request.app_name))
        return pb.GetDraftInfoResponse(draft=convert_versions.draft_info(draft) if draft else None)

    async def CompileDraft(
        self, request: pb.CompileDraftRequest, context: Context
    ) -> pb.CompileDraftResponse:
        build = await self._drafts.compile(app_ref(_organization(context), request.app_name))
        return convert_versions.compiling(build)

    async def TestDraft(
        self, request: pb.TestDraftRequest, context: Context
    ) -> pb.TestDraftResponse:
        principal = principal_of(context)
        trial = await self._trials.run(
            principal,
            app_ref(principal.organization, request.app_name),
            DRAFT,
            convert_invocations.http_call(request.http),
            request.payload,
            deadline_secs=context.time_remaining(),
        )
        return convert_invocations.draft_test(trial)

    async def PublishDraft(
        self, request: pb.PublishDraftRequest, context: Context
    ) -> pb.PublishDraftResponse:
        found = await self._drafts.publish(app_ref(_organization(context), request.app_name))
        return convert_versions.published(found, self._address)

    async def ListAppVersions(
        self, request: pb.ListAppVersionsRequest, context: Context
    ) -> pb.ListAppVersionsResponse:
        limit = page_limit(request.limit, self._limits)
        (below,) = decode_cursor(_VERSIONS, request.cursor, [int]) or (0,)
        ref = app_ref(_organization(context), request.app_name)
        rows = await self._versions.list(ref, below=int(below), limit=limit + 1)
        page, cursor = page_of(_VERSIONS, rows, limit, lambda version: [version.number])
        found = [convert_versions.version_info(version) for version in page]
        return pb.ListAppVersionsResponse(versions=found, next_cursor=cursor)

    async def GetAppVersion(
        self, request: pb.GetAppVersionRequest, context: Context
    ) -> pb.GetAppVersionResponse:
        ref = app_ref(_organization(context), request.app_name)
        app, version = await self._versions.get(ref, request.version)
        return pb.GetAppVersionResponse(app=convert_apps.version_meta(app, version, self._address))

    async def TestAppVersion(
        self, request: pb.TestAppVersionRequest, context: Context
    ) -> pb.TestAppVersionResponse:
        principal = principal_of(context)
        trial = await self._trials.run(
            principal,
            app_ref(principal.organization, request.app_name),
            request.version,
            convert_invocations.http_call(request.http),
            request.payload,
            deadline_secs=context.time_remaining(),
        )
        return convert_invocations.version_test(trial)

    async def RollbackApp(
        self, request: pb.RollbackAppRequest, context: Context
    ) -> pb.RollbackAppResponse:
        ref = app_ref(_organization(context), request.app_name)
        return convert_versions.rolled_back(await self._versions.roll_back(ref, request.version))

    async def GetAppCode(
        self, request: pb.GetAppCodeRequest, context: Context
    ) -> pb.GetAppCodeResponse:
        organization = _organization(context)
        number = request.version if request.HasField("version") else None
        ref = app_ref(organization, request.app_name)
        return convert_versions.app_code(await self._versions.code(organization, ref, number))

    async def GetBuildLog(
        self, request: pb.GetBuildLogRequest, context: Context
    ) -> pb.GetBuildLogResponse:
        ref = app_ref(_organization(context), request.app_name)
        return convert_builds.build_log(await self._build_logs.get(ref, request.build_id))

    async def StreamCompileLogs(
        self, request: pb.StreamCompileLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamCompileLogsResponse]:
        followed = self._build_logs.follow(_organization(context), request.deploy_id)
        async with aclosing(followed) as items:
            async for item in items:
                yield convert_builds.compile_frame(item)

    async def Invoke(  # type: ignore[override]  # it writes its frames itself: a generator less
        self, request: pb.InvokeRequest, context: Context
    ) -> None:
        principal = principal_of(context)
        frames = self._invocations.frames(
            principal,
            convert_invocations.invoked_app(principal.organization, request),
            convert_invocations.http_call(request.http),
            request.body,
            deadline_secs=context.time_remaining(),
        )
        async with aclosing(frames) as items:
            async for item in items:
                await context.write(convert_invocations.frame(item))

    async def HealthCheck(
        self,
        request: pb.HealthCheckRequest,
        context: Context,
    ) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(status="ok", version=self._server_version)


def _organization(context: Context) -> Organization:
    return principal_of(context).organization
