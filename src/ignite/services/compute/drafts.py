"""Drafts: save, compile, publish. They record what is wanted; the controllers make it so."""

import logging
from dataclasses import dataclass, replace

from ulid import ULID

from ignite.db.database import APPS_CHANNEL, BUILDS_CHANNEL, Database, Transaction
from ignite.domain.app_checks import AppBounds, check_schema
from ignite.domain.apps import DRAFT, App, AppRef, DeploymentState
from ignite.domain.builds import Build
from ignite.domain.errors import NoDraft
from ignite.domain.identity import Organization
from ignite.domain.sources import Source
from ignite.domain.versions import Code, Version, VersionStatus
from ignite.services.compute.sources import Sources

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemas:
    """Schemas that come with a draft; "" leaves the app's as it is."""

    input: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version that was numbered, and the app that is to serve it."""

    app: App
    version: Version


class Drafts:
    """The use cases on version 0."""

    def __init__(self, database: Database, sources: Sources, bounds: AppBounds) -> None:
        self._database = database
        self._sources = sources
        self._bounds = bounds

    async def save(
        self, organization: Organization, ref: AppRef, source: Source, schemas: Schemas
    ) -> Version:
        """Replace the draft; raises AppNotFound. Code that was compiled before stays compiled."""
        check_schema(schemas.input, "input_schema", self._bounds)
        check_schema(schemas.output, "output_schema", self._bounds)
        self._sources.check(source)
        async with self._database.reading() as tx:
            await tx.apps.get(ref)  # no blob for an app that is not there
        code = await self._sources.keep(organization, source)
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            config = replace(
                app.config,
                input_schema=schemas.input or app.config.input_schema,
                output_schema=schemas.output or app.config.output_schema,
            )
            if config != app.config:
                app = await tx.apps.set_config(app, config)
            draft = await replace_draft(tx, app, code)
            await tx.notify(APPS_CHANNEL, str(app.id))
        return draft

    async def info(self, ref: AppRef) -> Version | None:
        """Return the draft, None when none is saved; raises AppNotFound."""
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            return await tx.versions.get(app.id, DRAFT)

    async def compile(self, ref: AppRef) -> Build:
        """Start a compile of the draft, or return the one that is under way; raises NoDraft."""
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            draft = await draft_of(tx, app)
            return await running_build(tx, draft) or await start_build(tx, app, draft)

    async def publish(self, ref: AppRef) -> Published:
        """Number the draft and make it the app's target; raises NoDraft.

        A publish that is still under way is given up for this one. Its version stays what it is,
        compiling or compiled: nothing was wrong with it, and RollbackApp may ask for it later.
        """
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            build = await running_build(tx, await draft_of(tx, app))
            draft = await draft_of(tx, app)  # anew: the build may have ended before it was locked
            is_compiled = bool(draft.artifact) and draft.status is not VersionStatus.FAILED
            if not is_compiled and build is None:
                await start_build(tx, app, draft)
                draft = await draft_of(tx, app)
            number = await tx.apps.take_number(app)
            status = VersionStatus.DRAFT if is_compiled else VersionStatus.COMPILING
            version = await tx.versions.publish(draft, number, app.config, status)
            app = await tx.apps.set_target(app, number, state_during_rollout(app, status))
            await tx.notify(APPS_CHANNEL, str(app.id))
        logger.info("version published", extra={"app": ref.id, "version": number})
        return Published(app=app, version=version)


async def draft_of(tx: Transaction, app: App) -> Version:
    """Return the draft; raises NoDraft."""
    draft = await tx.versions.get(app.id, DRAFT)
    if draft is None:
        raise NoDraft(f"app {app.ref.id!r} has no saved draft")
    return draft


async def replace_draft(tx: Transaction, app: App, code: Code) -> Version:
    """Make `code` the draft, with the artifact of equal code that the organisation has built."""
    artifact, runtime_version = await tx.builds.artifact_of(app.ref.organization, code.hash)
    return await tx.versions.save_draft(app, code, artifact, runtime_version)


async def running_build(tx: Transaction, version: Version) -> Build | None:
    """Return the build that a version waits for, None when it waits for none.

    The build cannot end before the commit, so a version tied to it meanwhile gets its result.
    """
    if version.status is not VersionStatus.COMPILING:
        return None
    build = await tx.builds.get(version.app_id, version.build_id, lock=True)
    return None if build is None or build.state.is_terminal else build


async def start_build(tx: Transaction, app: App, draft: Version) -> Build:
    """Queue a compile of the draft, which waits for it from now on."""
    build = await tx.builds.create(
        app, draft.code, build_id=f"bld_{ULID()}", deploy_id=f"dep_{ULID()}"
    )
    await tx.versions.attach_build(app.id, draft.number, build)
    await tx.notify(BUILDS_CHANNEL, build.id)
    await tx.notify(APPS_CHANNEL, str(app.id))
    return build


def state_during_rollout(app: App, status: VersionStatus) -> DeploymentState:
    """Return the serving posture: what serves goes on serving while the next one comes."""
    if app.active_version:
        return app.state
    if status is VersionStatus.COMPILING:
        return DeploymentState.COMPILING
    return DeploymentState.PROVISIONING
