"""The deployment controller over a real Postgres, a backend in memory, and the API's use cases."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tests.fakes.backend import FakeBackend
from tests.fakes.blobs import FakeBlobStore
from tests.support.compute import ACME

from ignite.archives import inspect
from ignite.controllers.autoscaler import Autoscaler, DemandReport
from ignite.controllers.deployments import Deployments, DeploymentSettings
from ignite.controllers.routes import RouteBoard
from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import APPS_CHANNEL, Database
from ignite.domain.app_checks import ConfigChange
from ignite.domain.apps import App, AppConfig, AppRef, AppStatus, DeploymentState
from ignite.domain.archives import ArchiveLimits
from ignite.domain.builds import BuildState
from ignite.domain.routes import Route
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.scaling import PlatformScaling
from ignite.domain.sources import Source
from ignite.domain.versions import Version
from ignite.ports.backend import RuntimeBackend
from ignite.services.compute.apps import Apps
from ignite.services.compute.bounds import bounds_of
from ignite.services.compute.drafts import Drafts, Schemas
from ignite.services.compute.sources import Sources
from ignite.services.compute.versions import Versions
from ignite.settings import DatabaseSettings, LimitSettings, ScalingSettings

SETTINGS = DeploymentSettings(
    base_domain="apps.test",
    default_concurrency=16,
    platform=PlatformScaling(
        replica_cap=5,
        threshold=10,
        scaledown_period=timedelta(seconds=300),
        scaledown_floor=timedelta(0),
    ),
    trial_idle=timedelta(seconds=0.3),
)
HELLO = AppRef(organization=ACME.name, name="hello")


async def until(condition: Callable[[], Any], within: float = 30) -> None:
    """Wait until a condition of memory or of the database holds."""
    async with asyncio.timeout(within):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


@dataclass(slots=True, kw_only=True)
class Controller:
    """One life of the controller."""

    deployments: Deployments
    board: RouteBoard
    autoscaler: Autoscaler
    task: "asyncio.Task[None]"


@dataclass(slots=True, kw_only=True)
class Rig:
    """What outlives the controller, and the controller."""

    database: Database
    backend: FakeBackend
    apps: Apps
    drafts: Drafts
    versions: Versions
    settings: DeploymentSettings
    controller: Controller = field(init=False)

    # -- the controller --------------------------------------------------------------------------

    async def start(self, backend: RuntimeBackend | None = None) -> None:
        board = RouteBoard(ack_timeout_secs=0.2)
        autoscaler = Autoscaler(now=now, interval_secs=0.05)
        deployments = Deployments(
            self.database,
            backend or self.backend,
            board,
            autoscaler,
            self.settings,
            now=now,
        )
        ready = asyncio.Event()

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(autoscaler.run(lambda: None))
                group.create_task(deployments.run(ready.set))

        task = asyncio.ensure_future(run())
        self.controller = Controller(
            deployments=deployments, board=board, autoscaler=autoscaler, task=task
        )
        up = asyncio.ensure_future(ready.wait())
        await asyncio.wait([up, task], timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            await task
            raise AssertionError("not ready")

    async def stop(self) -> None:
        assert not self.controller.task.done(), self.controller.task
        self.controller.task.cancel()
        await asyncio.wait([self.controller.task])

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    # -- what the API does -----------------------------------------------------------------------

    async def create(self, ref: AppRef = HELLO, **config: Any) -> App:
        return await self.apps.create(ACME, ref.name, AppConfig(**config), None)

    async def save(self, code: bytes, ref: AppRef = HELLO) -> Version:
        source = Source(
            runtime=Runtime(language=Language.PYTHON),
            content=code,
            is_archive=False,
            build_args={},
        )
        return await self.drafts.save(ACME, ref, source, Schemas())

    async def publish(self, code: bytes, ref: AppRef = HELLO) -> int:
        """Save, compile and publish; returns the version."""
        await self.save(code, ref)
        await self.compile(ref)
        return (await self.drafts.publish(ref)).version.number

    async def compile(self, ref: AppRef = HELLO) -> None:
        """Compile the draft unless equal code was compiled before."""
        draft = await self.drafts.info(ref)
        assert draft is not None
        if not draft.artifact:
            await self.drafts.compile(ref)
            await self.end_build(draft.code.blob)

    async def end_build(self, artifact: str = "", *, error: str = "", reason: str = "") -> None:
        """End the oldest build that waits, as the build controller does."""
        async with self.database.transaction() as tx:
            claimed = await tx.builds.claim("test", "token", timedelta(minutes=1))
            assert claimed is not None, "no build waits"
            build, lease = claimed
            if error:
                await tx.builds.finish(lease, BuildState.FAILED, error=error, reason=reason)
                await tx.versions.failed(build, error, reason)
            else:
                artifact = artifact or hashlib.sha256(build.id.encode()).hexdigest()
                await tx.builds.finish(lease, BuildState.SUCCEEDED, artifact=artifact)
                await tx.versions.compiled(build, artifact)
            await tx.notify(APPS_CHANNEL, str(build.app_id))

    async def configure(self, ref: AppRef = HELLO, **config: Any) -> None:
        await self.apps.configure(ref, ConfigChange(**config))

    async def live(self, code: bytes = b"one", ref: AppRef = HELLO) -> int:
        """Publish and wait until it serves."""
        number = await self.publish(code, ref)
        await self.until_active(number, ref)
        return number

    # -- looking ---------------------------------------------------------------------------------

    async def app(self, ref: AppRef = HELLO) -> App:
        async with self.database.transaction() as tx:
            return await tx.apps.get(ref)

    async def status(self, ref: AppRef = HELLO) -> AppStatus:
        return (await self.apps.state(ref))[1]

    async def version(self, number: int, ref: AppRef = HELLO) -> Version:
        return (await self.versions.get(ref, number))[1]

    async def until_active(self, number: int, ref: AppRef = HELLO) -> None:
        async def is_active() -> bool:
            return (await self.app(ref)).active_version == number

        await until(is_active)

    async def until_settled(self, ref: AppRef = HELLO) -> App:
        """Wait until no rollout is under way and the last generation was observed."""

        async def is_settled() -> bool:
            app = await self.app(ref)
            is_observed = app.observed_generation == app.generation
            return app.target_version == app.active_version and is_observed

        await until(is_settled)
        return await self.app(ref)

    async def state_is(self, state: DeploymentState) -> bool:
        return (await self.app()).state is state

    def is_warm(self) -> bool:
        route = self.route()
        return route is not None and route.is_warm

    def failure(self) -> str:
        """Return why the app is known not to start, or ""."""
        route = self.route()
        return route.failure_reason if route is not None else ""

    def route(self, hostname: str = "hello-acme.apps.test") -> Route | None:
        """Return the route that a host name leads to."""
        return RouteView(self.controller.board).of_host(hostname)

    def routes(self) -> list[Route]:
        """Return all routes."""
        return RouteView(self.controller.board).routes()

    def demand(self, version: int, in_flight: int, idle_since: datetime | None = None) -> None:
        """Report what a gateway sees."""
        self.controller.autoscaler.report(
            "gw",
            {
                self.backend.key_of(version): DemandReport(
                    requests_per_second=0, in_flight=in_flight, idle_since=idle_since
                )
            },
        )


@dataclass(slots=True)
class RouteView:
    """The board as a new gateway would get it."""

    board: RouteBoard

    def routes(self) -> list[Route]:
        return list(self.board._routes.values())

    def of_host(self, hostname: str) -> Route | None:
        found = [route for route in self.routes() if hostname in route.hostnames]
        assert len(found) <= 1, "a host name leads to one route"
        return found[0] if found else None


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def rigged(
    database_url: str, settings: DeploymentSettings = SETTINGS, *, is_started: bool = True
) -> AsyncIterator[Rig]:
    database = Database(database_url, DatabaseSettings())
    await PostgresAccountStore(database).create_organization(ACME.id, ACME.name, "")
    limits = LimitSettings()
    bounds = bounds_of(limits, ScalingSettings(scaledown_floor_secs=1))
    archives = ArchiveLimits(
        archive_bytes=limits.archive_bytes,
        unpacked_bytes=limits.unpacked_bytes,
        entries=limits.archive_entries,
        ratio=limits.archive_ratio,
    )
    sources = Sources(FakeBlobStore(), bounds, partial(inspect, limits=archives))
    rig = Rig(
        database=database,
        backend=FakeBackend(),
        apps=Apps(database, sources, bounds, apps_per_organization=limits.apps_per_organization),
        drafts=Drafts(database, sources, bounds),
        versions=Versions(database, sources),
        settings=settings,
    )
    if is_started:
        await rig.start()
    try:
        yield rig
    finally:
        if not is_started and not hasattr(rig, "controller"):
            await database.close()
        else:
            try:
                await rig.stop()
            finally:
                await database.close()
