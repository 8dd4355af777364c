"""Apps and their hostnames."""

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ignite.db import tables, values
from ignite.domain.apps import App, AppConfig, AppRef, DeploymentState
from ignite.domain.errors import AlreadyExists, AppNotFound, FailedPrecondition, Unavailable
from ignite.domain.identity import OrganizationId, OrganizationName

_apps = tables.apps
_FOREIGN_KEY_VIOLATION = "23503"
_DEADLOCK = "40P01"


class AppStore:
    """Reads and writes apps of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, ref: AppRef, organization_id: OrganizationId, config: AppConfig) -> App:
        """Insert an app; raises AlreadyExists when the name is taken.

        Raises FailedPrecondition for an organisation that is not known here: a token of another
        issuer may name one.
        """
        try:
            async with self._connection.begin_nested():
                row = await self._connection.execute(
                    insert(_apps)
                    .values(
                        organization_id=organization_id,
                        organization=ref.organization,
                        name=ref.name,
                        config=values.config_to_json(config),
                        state=int(DeploymentState.CREATED),
                    )
                    .returning(_apps)
                )
                return values.app_of(row.mappings().one())
        except IntegrityError as error:
            if sqlstate_of(error) == _FOREIGN_KEY_VIOLATION:
                raise FailedPrecondition(
                    f"organization {ref.organization!r} does not exist here",
                    reason="OrganizationNotFound",
                ) from error
            raise app_exists(ref) from error

    async def claim_labels(self, app: App, labels: Sequence[tuple[str, int]]) -> None:
        """Make `labels` (label, port) the app's host names, dropping its others.

        Raises AlreadyExists when another app has one; the text names no other tenant. Labels are
        claimed in one order for all, so that two claims rarely wait for each other; where they do,
        one gets Unavailable.
        """
        kept = [label for label, _ in labels]
        await self._connection.execute(
            delete(tables.hostnames).where(
                tables.hostnames.c.app_id == app.id, tables.hostnames.c.label.not_in(kept)
            )
        )
        have = set(
            (
                await self._connection.execute(
                    select(tables.hostnames.c.label).where(tables.hostnames.c.app_id == app.id)
                )
            ).scalars()
        )
        for label, port in sorted(labels):
            if label in have:
                continue
            try:
                async with self._connection.begin_nested():
                    await self._connection.execute(
                        insert(tables.hostnames).values(label=label, app_id=app.id, port=port)
                    )
            except IntegrityError as error:
                raise AlreadyExists(
                    f"host name {label!r} is taken; choose another app name",
                    reason="HostnameTaken",
                ) from error
            except DBAPIError as error:
                if sqlstate_of(error) != _DEADLOCK:
                    raise
                raise Unavailable(
                    "host names are being changed at this moment; try again", reason="Conflict"
                ) from error

    async def get(self, ref: AppRef, *, lock: bool = False) -> App:
        """Return the app; raises AppNotFound. `lock` holds the row until the commit."""
        query = select(_apps).where(
            _apps.c.organization == ref.organization, _apps.c.name == ref.name
        )
        if lock:
            query = query.with_for_update(key_share=True)
        row = (await self._connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise AppNotFound(f"app {ref.id!r} does not exist")
        return values.app_of(row)

    async def find(self, ref: AppRef) -> App | None:
        """Return the app, or None."""
        row = await self._connection.execute(
            select(_apps).where(_apps.c.organization == ref.organization, _apps.c.name == ref.name)
        )
        found = row.mappings().one_or_none()
        return values.app_of(found) if found else None

    async def lock_organization(self, organization_id: OrganizationId) -> None:
        """Let no other transaction add an app to the organisation until the commit."""
        organizations = tables.organizations
        await self._connection.execute(
            select(organizations.c.id)
            .where(organizations.c.id == organization_id)
            .with_for_update(key_share=True)
        )

    async def get_by_id(self, app_id: int, *, lock: bool = False) -> App | None:
        """Return the app with this row id, or None."""
        query = select(_apps).where(_apps.c.id == app_id)
        if lock:
            query = query.with_for_update(key_share=True)
        row = (await self._connection.execute(query)).mappings().one_or_none()
        return values.app_of(row) if row else None

    async def list(
        self, organization: OrganizationName, *, after: str, limit: int
    ) -> tuple[App, ...]:
        """Return up to `limit` apps by name, those behind `after`."""
        rows = await self._connection.execute(
            select(_apps)
            .where(_apps.c.organization == organization, _apps.c.name > after)
            .order_by(_apps.c.name)
            .limit(limit)
        )
        return tuple(values.app_of(row) for row in rows.mappings())

    async def count(self, organization: OrganizationName) -> int:
        """Return how many apps the organisation has."""
        found = await self._connection.execute(
            select(func.count()).select_from(_apps).where(_apps.c.organization == organization)
        )
        return found.scalar_one()

    async def page_after(self, app_id: int, limit: int) -> tuple[App, ...]:
        """Return apps of all organisations by row id: for controllers that load everything."""
        rows = await self._connection.execute(
            select(_apps).where(_apps.c.id > app_id).order_by(_apps.c.id).limit(limit)
        )
        return tuple(values.app_of(row) for row in rows.mappings())

    async def behind(self, limit: int) -> tuple[int, ...]:
        """Return ids of apps whose wanted generation has not been observed yet."""
        rows = await self._connection.execute(
            select(_apps.c.id)
            .where(_apps.c.observed_generation < _apps.c.generation)
            .order_by(_apps.c.updated_at)
            .limit(limit)
        )
        return tuple(rows.scalars())

    async def set_config(self, app: App, config: AppConfig) -> App:
        """Store a new config as a new generation."""
        return await self._change(app.id, config=values.config_to_json(config), bump=True)

    async def set_target(self, app: App, version: int, state: DeploymentState) -> App:
        """Tell which version should become active, as a new generation."""
        return await self._change(
            app.id, target_version=version, state=int(state), error="", error_reason="", bump=True
        )

    async def take_number(self, app: App) -> int:
        """Return the next version number; numbers are never used twice."""
        found = await self._connection.execute(
            update(_apps)
            .where(_apps.c.id == app.id)
            .values(last_version=_apps.c.last_version + 1)
            .returning(_apps.c.last_version)
        )
        number: int = found.scalar_one()
        return number

    async def activate(self, app: App, version: int, state: DeploymentState) -> App:
        """Move `active_version`; the target becomes the same."""
        return await self._change(
            app.id,
            active_version=version,
            target_version=version,
            state=int(state),
            error="",
            error_reason="",
        )

    async def give_up_target(
        self, app: App, state: DeploymentState, error: str, reason: str
    ) -> App:
        """Forget the target after a failed publish; the active version serves on."""
        return await self._change(
            app.id,
            target_version=app.active_version,
            state=int(state),
            error=error,
            error_reason=reason,
        )

    async def set_state(
        self, app_id: int, state: DeploymentState, error: str = "", reason: str = ""
    ) -> None:
        """Record where the deployment stands; unchanged rows are not written."""
        await self._connection.execute(
            update(_apps)
            .where(
                _apps.c.id == app_id,
                (_apps.c.state != int(state))
                | (_apps.c.error != error)
                | (_apps.c.error_reason != reason),
            )
            .values(state=int(state), error=error, error_reason=reason)
        )

    async def observe(self, app_id: int, generation: int) -> None:
        """Record that `generation` has been made so."""
        await self._connection.execute(
            update(_apps)
            .where(_apps.c.id == app_id, _apps.c.observed_generation < generation)
            .values(observed_generation=generation)
        )

    async def delete(self, app: App) -> None:
        """Remove the app and, by cascade, its versions, builds and hostnames."""
        await self._connection.execute(delete(_apps).where(_apps.c.id == app.id))

    async def _change(self, app_id: int, *, bump: bool = False, **columns: object) -> App:
        statement = (
            update(_apps).where(_apps.c.id == app_id).values(**columns, updated_at=func.now())
        )
        if bump:
            statement = statement.values(generation=_apps.c.generation + 1)
        row = (await self._connection.execute(statement.returning(_apps))).mappings().one()
        return values.app_of(row)


def app_exists(ref: AppRef) -> AlreadyExists:
    """Return the refusal of a name that is taken."""
    return AlreadyExists(f"app {ref.id!r} exists", reason="AppExists", details={"app": ref.id})


def sqlstate_of(error: DBAPIError) -> str:
    """Return Postgres' own code of what went wrong."""
    return str(getattr(error.orig, "sqlstate", ""))
