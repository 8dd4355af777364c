"""ComputeService over a real socket and a real Postgres, with what is around it faked.

The controllers are played by `Controllers`: the same store calls in the same order.
"""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes.blobs import FakeBlobStore
from tests.fakes.dispatch import FakeDispatcher

from ignite.archives import inspect
from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import APPS_CHANNEL, BUILD_LINES_CHANNEL, Database
from ignite.db.hints import BuildLineHints
from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import AppRef, DeploymentState
from ignite.domain.archives import ArchiveLimits
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)
from ignite.domain.versions import VersionStatus
from ignite.rpc.auth import BearerAuth
from ignite.rpc.policy import policies_of
from ignite.rpc.server import Bind, Service, grpc_component
from ignite.services.compute.apps import Apps
from ignite.services.compute.bounds import bounds_of
from ignite.services.compute.build_logs import BuildLogs
from ignite.services.compute.drafts import Drafts
from ignite.services.compute.invocations import Invocations
from ignite.services.compute.servicer import ComputeServicer, ComputeUseCases
from ignite.services.compute.sources import Sources
from ignite.services.compute.trials import Trials
from ignite.services.compute.versions import Versions
from ignite.settings import DatabaseSettings, GatewaySettings, LimitSettings, ScalingSettings
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

COMPUTE = "dodil.ignite.v1.ComputeService"
ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
RIVAL = Organization(id=OrganizationId("01RIVAL"), name=OrganizationName("rival"))
# Its name makes host names that could be of `rival` as well.
TWIN = Organization(id=OrganizationId("01TWIN"), name=OrganizationName("x-rival"))
ADDRESS = PublicAddress(scheme="http", base_domain="apps.test", port=8080)
HANDLER = b"def handler(payload, ctx):\n    return payload\n"


class Verifier:
    """Believes the name of an organisation as a token with every scope."""

    async def verify(self, token: str) -> Principal:
        for organization in (ACME, RIVAL, TWIN):
            if token == organization.name:
                return Principal(subject=token, organization=organization, scopes=frozenset(Scope))
        raise Unauthenticated("the token is not good")


@dataclass(slots=True, kw_only=True)
class Controllers:
    """Does to the database what the controllers do, when a test says so."""

    database: Database

    async def claim(self) -> "ClaimedBuild":
        async with self.database.transaction() as tx:
            claimed = await tx.builds.claim("test", "token", timedelta(minutes=1))
        assert claimed is not None, "no build waits"
        build, lease = claimed
        return ClaimedBuild(database=self.database, build=build, lease=lease)

    async def build(self, artifact: str = "a" * 64) -> Build:
        claimed = await self.claim()
        await claimed.succeed(artifact)
        return claimed.build

    async def activate(self, ref: AppRef) -> None:
        """Make the target active, as after its first replica was ready."""
        async with self.database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            assert await tx.versions.move(app.id, app.target_version, VersionStatus.ACTIVE)
            if app.active_version:
                await tx.versions.move(app.id, app.active_version, VersionStatus.SUPERSEDED)
            await tx.apps.activate(app, app.target_version, DeploymentState.DEPLOYED)
            await tx.notify(APPS_CHANNEL, str(app.id))


@dataclass(slots=True, kw_only=True)
class ClaimedBuild:
    """A build under a lease."""

    database: Database
    build: Build
    lease: Any
    lines: int = 0

    async def log(self, *messages: str, stream: str = "stdout") -> None:
        lines = [
            BuildLine(
                number=self.lines + at, at=self.build.created_at, stream=stream, message=message
            )
            for at, message in enumerate(messages, 1)
        ]
        self.lines += len(lines)
        async with self.database.transaction() as tx:
            await tx.builds.add_lines(self.build.id, lines)
            await tx.notify(BUILD_LINES_CHANNEL, self.build.id)

    async def succeed(self, artifact: str = "a" * 64) -> None:
        async with self.database.transaction() as tx:
            assert await tx.builds.finish(self.lease, BuildState.SUCCEEDED, artifact=artifact)
            await tx.versions.compiled(self.build, artifact)
            await tx.notify(BUILD_LINES_CHANNEL, self.build.id)

    async def fail(self, error: str, reason: str) -> None:
        async with self.database.transaction() as tx:
            assert await tx.builds.finish(self.lease, BuildState.FAILED, error=error, reason=reason)
            await tx.versions.failed(self.build, error, reason)
            await tx.notify(BUILD_LINES_CHANNEL, self.build.id)


@dataclass(slots=True, kw_only=True)
class Compute:
    """The served service and everything around it."""

    stub: Any
    database: Database
    blobs: FakeBlobStore
    dispatcher: FakeDispatcher
    controllers: Controllers
    use_cases: ComputeUseCases
    listening: asyncio.Event = field(default_factory=asyncio.Event)

    def call(
        self, method: str, request: Any, *, organization: str = "acme", timeout: float = 20
    ) -> Any:
        return getattr(self.stub, method)(
            request, metadata=(("authorization", f"Bearer {organization}"),), timeout=timeout
        )

    async def refused(
        self, method: str, request: Any, *, organization: str = "acme"
    ) -> "tuple[grpc.StatusCode, str]":
        """Make a unary call that must fail; return its status and text."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, organization=organization)
        return caught.value.code(), caught.value.details() or ""

    async def create(self, name: str, **fields: Any) -> Any:
        return await self.call("CreateApp", pb.CreateAppRequest(name=name, **fields))

    async def save(self, app: str, code: bytes = HANDLER) -> Any:
        request = pb.SaveDraftRequest(app_name=app, code=python_file(code))
        return (await self.call("SaveDraft", request)).draft

    async def compile_draft(self, app: str = "hello") -> Any:
        """Ask for a compile of the draft."""
        return await self.call("CompileDraft", pb.CompileDraftRequest(app_name=app))

    async def publish(self, app: str) -> Any:
        return await self.call("PublishDraft", pb.PublishDraftRequest(app_name=app))

    async def live(self, app: str, code: bytes = HANDLER) -> int:
        """Save, publish, compile and activate; return the version."""
        await self.save(app, code)
        answer = await self.publish(app)
        async with self.database.transaction() as tx:
            ref = AppRef(organization=ACME.name, name=app)
            version = await tx.versions.get((await tx.apps.get(ref)).id, answer.version)
        assert version is not None
        if not version.artifact:
            await self.controllers.build()
        await self.controllers.activate(ref)
        return int(answer.version)


def python_file(content: bytes = HANDLER, **build_args: str) -> common.CodeSource:
    return common.CodeSource(
        compile=common.CompileSource(
            runtime=common.Runtime(python=common.PythonRuntime(version="3.11")),
            source_code=content,
            build_args=build_args,
        )
    )


def python_archive(files: dict[str, bytes]) -> common.CodeSource:
    return common.CodeSource(
        compile=common.CompileSource(
            runtime=common.Runtime(python=common.PythonRuntime()), archive=zip_of(files)
        )
    )


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@asynccontextmanager
async def serving(
    database_url: str,
    folder: Path,
    *,
    limits: LimitSettings | None = None,
    scaling: ScalingSettings | None = None,
) -> AsyncIterator[Compute]:
    limits = limits or LimitSettings()
    gateway = GatewaySettings()
    database = Database(database_url, DatabaseSettings())
    accounts = PostgresAccountStore(database)
    for organization in (ACME, RIVAL, TWIN):
        await accounts.create_organization(organization.id, organization.name, "")
    bounds = bounds_of(limits, scaling or ScalingSettings())
    blobs, dispatcher = FakeBlobStore(), FakeDispatcher()
    archives = ArchiveLimits(
        archive_bytes=limits.archive_bytes,
        unpacked_bytes=limits.unpacked_bytes,
        entries=limits.archive_entries,
        ratio=limits.archive_ratio,
    )
    sources = Sources(blobs, bounds, partial(inspect, limits=archives))
    hints = BuildLineHints(database)
    build_logs = BuildLogs(database, hints, reply_bytes=limits.build_log_reply_bytes)
    invocations = Invocations(dispatcher, limits, gateway)
    use_cases = ComputeUseCases(
        apps=Apps(database, sources, bounds, apps_per_organization=limits.apps_per_organization),
        drafts=Drafts(database, sources, bounds),
        versions=Versions(database, sources),
        build_logs=build_logs,
        trials=Trials(database, build_logs, invocations, limits, gateway),
        invocations=invocations,
    )
    servicer = ComputeServicer(use_cases, limits, ADDRESS, server_version="1.2.3")
    server = grpc_component(
        name="test",
        binds=[Bind.unix(folder / "s")],
        services=[
            Service(
                name=COMPUTE, add=pb_grpc.add_ComputeServiceServicer_to_server, servicer=servicer
            )
        ],
        auth=BearerAuth(Verifier(), policies_of([COMPUTE]), frozenset({f"/{COMPUTE}/Invoke"})),
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(server.run(ready.set)),
            tasks.create_task(hints.run(lambda: None)),
        ]
        async with asyncio.timeout(20):
            await ready.wait()
        channel = grpc.aio.insecure_channel(
            f"unix:{folder / 's'}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        try:
            yield Compute(
                stub=pb_grpc.ComputeServiceStub(channel),
                database=database,
                blobs=blobs,
                dispatcher=dispatcher,
                controllers=Controllers(database=database),
                use_cases=use_cases,
            )
        finally:
            await channel.close()
            for task in started:
                task.cancel()
    await database.close()
