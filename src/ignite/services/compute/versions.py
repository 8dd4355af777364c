"""Versions: list, read, roll back, give the code out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ignite.db.database import APPS_CHANNEL, Database, Transaction
from ignite.domain.apps import DRAFT, App, AppRef
from ignite.domain.errors import FailedPrecondition, VersionNotFound
from ignite.domain.identity import Organization
from ignite.domain.sources import file_form
from ignite.domain.versions import Version, VersionStatus
from ignite.services.compute.drafts import state_during_rollout
from ignite.services.compute.sources import Sources

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCode:
    """The source of a version as it was saved."""

    version: Version
    content: bytes
    content_type: str
    file_name: str


class Versions:
    """The use cases on numbered versions."""

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources

    async def list(self, ref: AppRef, *, below: int, limit: int) -> Sequence[Version]:
        """Return up to `limit` published versions, newest first, below a number (0: all)."""
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            return await tx.versions.list(app.id, below=below, limit=limit)

    async def get(self, ref: AppRef, number: int) -> tuple[App, Version]:
        """Return a version, 0 being the draft, with its app; raises VersionNotFound."""
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            return app, await version_of(tx, app, number)

    async def roll_back(self, ref: AppRef, number: int) -> App:
        """Make a version that was published before the app's target, whether it served or not.

        The active one is success at once, and ends a publish that is under way.
        """
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            version = await version_of(tx, app, number)
            _check_can_serve(version)
            if number == app.target_version:
                return app
            state = state_during_rollout(app, version.status)
            app = await tx.apps.set_target(app, number, state)
            await tx.notify(APPS_CHANNEL, str(app.id))
        logger.info("rollback asked for", extra={"app": ref.id, "version": number})
        return app

    async def code(self, organization: Organization, ref: AppRef, number: int | None) -> SavedCode:
        """Return the source of a version, of the active one for None; raises VersionNotFound."""
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            if number is None and not app.active_version:
                raise VersionNotFound(f"app {ref.id!r} has no active version yet")
            version = await version_of(tx, app, app.active_version if number is None else number)
        content = await self._sources.content(organization, version.code)
        content_type, name = file_form(version.code, content, ref.name, version.number)
        return SavedCode(
            version=version, content=content, content_type=content_type, file_name=name
        )


async def version_of(tx: Transaction, app: App, number: int) -> Version:
    """Return one version of the app; raises VersionNotFound."""
    version = await tx.versions.get(app.id, number)
    if version is None:
        what = "saved draft" if number == DRAFT else f"version {number}"
        raise VersionNotFound(f"app {app.ref.id!r} has no {what}")
    return version


def _check_can_serve(version: Version) -> None:
    if version.number == DRAFT:
        raise FailedPrecondition(
            "version 0 is the draft: publish it instead", reason="VersionIsDraft"
        )
    if version.status in (VersionStatus.FAILED, VersionStatus.COMPILING):
        raise FailedPrecondition(
            f"version {version.number} is {version.status.name} and cannot serve",
            reason="VersionNotReady",
        )
