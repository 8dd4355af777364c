"""Apps and their hostnames."""

from collections.abc import Sequence

from asyncpg import (
    DeadlockDetectedError,
    ForeignKeyViolationError,
    PostgresError,
)
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    and_,
    bindparam,
    column,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from ignite.db import tables, values
from ignite.db.connection import Connection, prepared
from ignite.domain.apps import App, AppConfig, AppRef, AppSummary, DeploymentState
from ignite.domain.errors import AlreadyExists, AppNotFound, FailedPrecondition, Unavailable
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import ShownApp

_apps = tables.apps
_versions = tables.versions
_hostnames = tables.hostnames

_NAMED = and_(_apps.c.organization == bindparam("organization"), _apps.c.name == bindparam("name"))
_GET = prepared(select(_apps).where(_NAMED))
_LOCK = prepared(select(_apps).where(_NAMED).with_for_update(key_share=True))
_GET_BY_ID = prepared(select(_apps).where(_apps.c.id == bindparam("id")))
_LOCK_BY_ID = prepared(
    select(_apps).where(_apps.c.id == bindparam("id")).with_for_update(key_share=True)
)
_SHOWN_COLUMNS = (
    *_apps.c,
    *(
        _versions.c[name]
        for name in (
            "code_kind",
            "runtime",
            "blob",
            "size_bytes",
            "is_archive",
            "build_args",
            "code_hash",
            "build_id",
        )
    ),
)
_SHOWN = prepared(
    # JSON as text: such rows can be compared. Version 0 is the draft, and what an app without an
    # active version shows.
    select(
        *(
            one.cast(Text).label(one.name) if isinstance(one.type, JSONB) else one
            for one in _SHOWN_COLUMNS
        )
    )
    .outerjoin(
        _versions,
        and_(_versions.c.app_id == _apps.c.id, _versions.c.number == _apps.c.active_version),
    )
    .where(_NAMED)
)
_LIST = prepared(
    select(
        _apps.c.organization,
        _apps.c.name,
        _apps.c.config["description"].astext.label("description"),
        _apps.c.config["tier"].astext.cast(Integer).label("tier"),
        _apps.c.config["ports"].astext.label("ports"),
        _apps.c.state,
        _apps.c.active_version,
        _apps.c.created_at,
        _apps.c.updated_at,
    )
    .where(_apps.c.organization == bindparam("organization"), _apps.c.name > bindparam("after"))
    .order_by(_apps.c.name)
    .limit(bindparam("limit", type_=Integer))
)
_COUNT = prepared(
    select(func.count()).select_from(_apps).where(_apps.c.organization == bindparam("organization"))
)
_CREATE = prepared(
    upsert(_apps)
    .values(
        {
            name: bindparam(name)
            for name in ("organization_id", "organization", "name", "config", "state")
        }
    )
    .on_conflict_do_nothing(index_elements=["organization", "name"])
    .returning(_apps)
)
_LOCK_ORGANIZATION = prepared(
    select(tables.organizations.c.id)
    .where(tables.organizations.c.id == bindparam("id"))
    .with_for_update(key_share=True)
)
_LABEL_ROWS = (
    func.unnest(
        bindparam("labels", type_=ARRAY(Text)),
        bindparam("ports", type_=ARRAY(Integer)),
    )
    .table_valued(column("label", Text), column("port", Integer))
    .render_derived()
)
_DROP_LABELS = (
    delete(_hostnames)
    .where(
        _hostnames.c.app_id == bindparam("app_id"),
        _hostnames.c.label != func.all(bindparam("labels", type_=ARRAY(Text))),
    )
    .cte("dropped")
)
_CLAIMED = upsert(_hostnames).from_select(
    ["label", "app_id", "port"],
    select(_LABEL_ROWS.c.label, bindparam("app_id", type_=BigInteger), _LABEL_ROWS.c.port).order_by(
        _LABEL_ROWS.c.label
    ),
)
_CLAIM_LABELS = prepared(
    # A label of another app is left alone, and so not among those returned.
    _CLAIMED.on_conflict_do_update(
        index_elements=["label"],
        set_={"port": _CLAIMED.excluded.port},
        where=_hostnames.c.app_id == _CLAIMED.excluded.app_id,
    )
    .returning(_hostnames.c.label)
    .add_cte(_DROP_LABELS)
)


class AppStore:
    """Reads and writes apps of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, ref: AppRef, organization_id: OrganizationId, config: AppConfig) -> App:
        """Insert an app; raises AlreadyExists when the name is taken.

        Raises FailedPrecondition for an organisation that is not known here: a token of another
        issuer may name one.
        """
        columns = {
            "organization_id": organization_id,
            "organization": ref.organization,
            "name": ref.name,
            "config": values.config_to_json(config),
            "state": int(DeploymentState.CREATED),
        }
        try:
            row = (await self._connection.execute(_CREATE, columns)).one_or_none()
        except ForeignKeyViolationError as error:
            raise FailedPrecondition(
                f"organization {ref.organization!r} does not exist here",
                reason="OrganizationNotFound",
            ) from error
        if row is None:
            raise app_exists(ref)
        return values.app_of(row)

    async def claim_labels(self, app: App, labels: Sequence[tuple[str, int]]) -> None:
        """Make `labels` (label, port) the app's host names, dropping its others.

        Raises AlreadyExists when another app has one; the text names no other tenant. Labels are
        claimed in one order for all, so that two claims rarely wait for each other; where they do,
        one gets Unavailable.
        """
        wanted = sorted(labels)
        try:
            claimed = await self._connection.execute(
                _CLAIM_LABELS,
                {
                    "app_id": app.id,
                    "labels": [label for label, _ in wanted],
                    "ports": [port for _, port in wanted],
                },
            )
        except DeadlockDetectedError as error:
            raise Unavailable(
                "host names are being changed at this moment; try again", reason="Conflict"
            ) from error
        mine = set(claimed.scalars())
        for label, _ in wanted:
            if label not in mine:
                raise AlreadyExists(
                    f"host name {label!r} is taken; choose another app name",
                    reason="HostnameTaken",
                )

    async def get(self, ref: AppRef, *, lock: bool = False) -> App:
        """Return the app; raises AppNotFound. `lock` holds the row until the commit."""
        row = await self._connection.execute(_LOCK if lock else _GET, _named(ref))
        if (found := row.one_or_none()) is None:
            raise _no_app(ref)
        return values.app_of(found)

    async def shown(self, ref: AppRef) -> ShownApp:
        """Return the app with its active version, else its draft, else none, in one statement.

        Raises AppNotFound.
        """
        row = (await self._connection.execute(_SHOWN, _named(ref))).one_or_none()
        if row is None:
            raise _no_app(ref)
        return values.shown_of(row)

    async def find(self, ref: AppRef) -> App | None:
        """Return the app, or None."""
        found = (await self._connection.execute(_GET, _named(ref))).one_or_none()
        return values.app_of(found) if found else None

    async def lock_organization(self, organization_id: OrganizationId) -> None:
        """Let no other transaction add an app to the organisation until the commit."""
        await self._connection.execute(_LOCK_ORGANIZATION, {"id": organization_id})

    async def get_by_id(self, app_id: int, *, lock: bool = False) -> App | None:
        """Return the app with this row id, or None."""
        statement = _LOCK_BY_ID if lock else _GET_BY_ID
        row = (await self._connection.execute(statement, {"id": app_id})).one_or_none()
        return values.app_of(row) if row else None

    async def list(
        self, organization: OrganizationName, *, after: str, limit: int
    ) -> tuple[AppSummary, ...]:
        """Return up to `limit` apps by name, those behind `after`."""
        rows = await self._connection.execute(
            _LIST, {"organization": organization, "after": after, "limit": limit}
        )
        return values.summary_page(organization, after, limit).of(rows.all())

    async def count(self, organization: OrganizationName) -> int:
        """Return how many apps the organisation has."""
        found = await self._connection.execute(_COUNT, {"organization": organization})
        count: int = found.scalar_one()
        return count

    async def page_after(self, app_id: int, limit: int) -> tuple[App, ...]:
        """Return apps of all organisations by row id: for controllers that load everything."""
        rows = await self._connection.execute(
            select(_apps).where(_apps.c.id > app_id).order_by(_apps.c.id).limit(limit)
        )
        return tuple(values.app_of(row) for row in rows)

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

    async def delete(self, app: App) -> None:
        """Remove the app and, by cascade, its versions, builds and hostnames."""
        await self._connection.execute(delete(_apps).where(_apps.c.id == app.id))

    async def _change(self, app_id: int, *, bump: bool = False, **columns: object) -> App:
        statement = (
            update(_apps).where(_apps.c.id == app_id).values(**columns, updated_at=func.now())
        )
        if bump:
            statement = statement.values(generation=_apps.c.generation + 1)
        row = (await self._connection.execute(statement.returning(_apps))).one()
        return values.app_of(row)


def app_exists(ref: AppRef) -> AlreadyExists:
    """Return the refusal of a name that is taken."""
    return AlreadyExists(f"app {ref.id!r} exists", reason="AppExists", details={"app": ref.id})


def sqlstate_of(error: PostgresError) -> str:
    """Return Postgres' own code of what went wrong."""
    return str(error.sqlstate or "")


def _named(ref: AppRef) -> dict[str, object]:
    return {"organization": ref.organization, "name": ref.name}


def _no_app(ref: AppRef) -> AppNotFound:
    return AppNotFound(f"app {ref.id!r} does not exist")
