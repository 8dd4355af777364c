"""Apps: create, read, configure, delete."""

import logging
from collections.abc import Sequence

from ignite.db.apps import app_exists
from ignite.db.database import APPS_CHANNEL, Database, Transaction
from ignite.domain.app_checks import ALL_FIELDS, AppBounds, ConfigChange, check_config
from ignite.domain.apps import (
    DRAFT,
    App,
    AppConfig,
    AppRef,
    AppStatus,
    AppSummary,
    check_app_name,
    host_labels,
    serving_ports,
)
from ignite.domain.errors import ResourceExhausted
from ignite.domain.identity import Organization
from ignite.domain.sources import Source, check_runtime
from ignite.domain.versions import ShownApp
from ignite.services.compute.drafts import replace_draft
from ignite.services.compute.sources import Sources

logger = logging.getLogger(__name__)


class Apps:
    """The use cases on an app as a whole. Every call is confined to one organisation."""

    def __init__(
        self, database: Database, sources: Sources, bounds: AppBounds, *, apps_per_organization: int
    ) -> None:
        self._database = database
        self._sources = sources
        self._bounds = bounds
        self._apps_per_organization = apps_per_organization

    async def create(
        self, organization: Organization, name: str, config: AppConfig, source: Source | None
    ) -> App:
        """Add an app, with its draft when a source is given: both or neither.

        Raises AlreadyExists for a name or a host name that is taken.
        """
        check_app_name(name)
        ref = AppRef(organization=organization.name, name=name)
        check_config(config, self._bounds, ALL_FIELDS)
        if config.runtime is not None:
            check_runtime(config.runtime, "runtime")
        host_labels(ref, config)
        if source is not None:
            self._sources.check(source)
            await self._refuse_taken(ref)
        code = await self._sources.keep(organization, source) if source is not None else None
        async with self._database.transaction() as tx:
            await self._take_place(tx, organization)
            app = await tx.apps.create(ref, organization.id, config)
            await claim_labels(tx, app, config)
            if code is not None:
                await replace_draft(tx, app, code)
            await tx.notify(APPS_CHANNEL, str(app.id))
        logger.info("app created", extra={"app": ref.id})
        return app

    async def get(self, ref: AppRef) -> ShownApp:
        """Return the app; raises AppNotFound."""
        async with self._database.reading() as tx:
            return await tx.apps.shown(ref)

    async def list(
        self, organization: Organization, *, after: str, limit: int
    ) -> Sequence[AppSummary]:
        """Return up to `limit` apps by name, those behind `after`."""
        async with self._database.reading() as tx:
            return await tx.apps.list(organization.name, after=after, limit=limit)

    async def configure(self, ref: AppRef, change: ConfigChange) -> ShownApp:
        """Change some of an app's config; what runs follows. Equal values change nothing."""
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            config = change.apply(app.config)
            check_config(config, self._bounds, change.changed)
            if config != app.config:
                if config.ports != app.config.ports:
                    await claim_labels(tx, app, config)
                app = await tx.apps.set_config(app, config)
                await tx.notify(APPS_CHANNEL, str(app.id))
            return await _shown(tx, app)

    async def delete(self, ref: AppRef) -> None:
        """Remove the app with its versions and names; what runs is stopped by the controllers.

        Its blobs stay until the janitor finds that nothing refers to them.
        """
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=True)
            await tx.apps.delete(app)
            await tx.notify(APPS_CHANNEL, str(app.id))
        logger.info("app deleted", extra={"app": ref.id})

    async def state(self, ref: AppRef) -> tuple[App, AppStatus]:
        """Return the app and what runs of it, as last seen."""
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            return app, await tx.status.get(app.id)

    async def _refuse_taken(self, ref: AppRef) -> None:
        """Store no code for a name that is taken already; in a race the constraint decides."""
        async with self._database.reading() as tx:
            if await tx.apps.find(ref) is not None:
                raise app_exists(ref)

    async def _take_place(self, tx: Transaction, organization: Organization) -> None:
        await tx.apps.lock_organization(organization.id)
        if await tx.apps.count(organization.name) >= self._apps_per_organization:
            raise ResourceExhausted(
                f"an organization may have {self._apps_per_organization} apps",
                reason="TooManyApps",
            )


async def claim_labels(tx: Transaction, app: App, config: AppConfig) -> None:
    """Make the host names of `config`'s ports the app's; raises AlreadyExists."""
    labels = host_labels(app.ref, config)
    await tx.apps.claim_labels(app, tuple(zip(labels, serving_ports(config), strict=True)))


async def _shown(tx: Transaction, app: App) -> ShownApp:
    version = await tx.versions.get(app.id, app.active_version or DRAFT)
    return ShownApp(app=app, version=version)
