"""Builds: a queue claimed with leases, and the stored logs."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import bindparam, func, insert, literal, or_, select, update

from ignite.db import tables, values
from ignite.db.connection import Connection, prepared
from ignite.db.leases import Lease
from ignite.domain.apps import App
from ignite.domain.builds import MOVES, Build, BuildLine, BuildState
from ignite.domain.versions import Code

_builds = tables.builds
_lines = tables.build_lines
_apps = tables.apps
_COLUMNS = (
    *_builds.columns,
    # An app never changes hands.
    select(_apps.c.organization_id)
    .where(_apps.c.id == _builds.c.app_id)
    .correlate(_builds)
    .scalar_subquery()
    .label("organization_id"),
)
_ADD_LINE = prepared(
    insert(_lines).values({column.name: bindparam(column.name) for column in _lines.columns})
)


class BuildStore:
    """Reads and writes builds of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, app: App, code: Code, *, build_id: str, deploy_id: str) -> Build:
        """Queue a build of `code`."""
        row = await self._connection.execute(
            insert(_builds)
            .values(
                id=build_id,
                deploy_id=deploy_id,
                app_id=app.id,
                organization=app.ref.organization,
                app_name=app.ref.name,
                **values.code_to_columns(code),
                state=BuildState.PENDING.value,
            )
            .returning(*_builds.columns, literal(app.organization_id).label("organization_id"))
        )
        return values.build_of(row.one())

    async def get(self, app_id: int, build_id: str, *, lock: bool = False) -> Build | None:
        """Return one build of the app, or None. `lock` holds its state until the commit.

        Locks are taken in one order by all: the app, the build, its versions.
        """
        query = select(*_COLUMNS).where(_builds.c.app_id == app_id, _builds.c.id == build_id)
        if lock:
            query = query.with_for_update(key_share=True)
        row = await self._connection.execute(query)
        found = row.one_or_none()
        return values.build_of(found) if found else None

    async def by_deploy_id(self, organization: str, deploy_id: str) -> Build | None:
        """Return the organisation's build with this deploy id, or None."""
        row = await self._connection.execute(
            select(*_COLUMNS).where(
                _builds.c.deploy_id == deploy_id, _builds.c.organization == organization
            )
        )
        found = row.one_or_none()
        return values.build_of(found) if found else None

    async def artifact_of(self, organization: str, code_hash: str) -> tuple[str, str]:
        """Return artifact and runtime version of equal code built before in the organisation.

        Both are "" where there is none.
        """
        found = await self._connection.execute(
            select(_builds.c.artifact, _builds.c.runtime_version)
            .where(
                _builds.c.organization == organization,
                _builds.c.code_hash == code_hash,
                _builds.c.state == BuildState.SUCCEEDED.value,
            )
            .order_by(_builds.c.completed_at.desc())
            .limit(1)
        )
        row = found.one_or_none()
        return (row["artifact"], row["runtime_version"]) if row is not None else ("", "")

    async def claim(
        self, owner: str, token: str, duration: timedelta
    ) -> tuple[Build, Lease] | None:
        """Take the oldest build that waits or whose lease has run out; None when there is none."""
        waiting = (
            select(_builds.c.id)
            .where(
                _builds.c.state.in_([BuildState.PENDING.value, BuildState.RUNNING.value]),
                or_(
                    _builds.c.lease_expires_at.is_(None),
                    _builds.c.lease_expires_at < func.now(),
                ),
            )
            .order_by(_builds.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        row = await self._connection.execute(
            update(_builds)
            .where(_builds.c.id == waiting)
            .values(
                state=BuildState.RUNNING.value,
                started_at=func.coalesce(_builds.c.started_at, func.now()),
                attempts=_builds.c.attempts + 1,
                lease_owner=owner,
                lease_token=token,
                lease_expires_at=func.now() + duration,
            )
            .returning(*_COLUMNS)
        )
        found = row.one_or_none()
        if found is None:
            return None
        return values.build_of(found), Lease(row_id=found["id"], token=token)

    async def renew(self, lease: Lease, duration: timedelta) -> bool:
        """Extend the lease; False when it is lost."""
        row = await self._connection.execute(
            update(_builds)
            .where(_builds.c.id == lease.row_id, _builds.c.lease_token == lease.token)
            .values(lease_expires_at=func.now() + duration)
            .returning(_builds.c.id)
        )
        return row.scalar_one_or_none() is not None

    async def attempts(self, lease: Lease) -> int:
        """Return how often the build has been claimed."""
        found = await self._connection.execute(
            select(_builds.c.attempts).where(_builds.c.id == lease.row_id)
        )
        attempts: int = found.scalar_one()
        return attempts

    async def release(self, lease: Lease) -> None:
        """Give the build back unfinished; another worker may take it at once."""
        await self._connection.execute(
            update(_builds)
            .where(
                _builds.c.id == lease.row_id,
                _builds.c.lease_token == lease.token,
                _builds.c.state == BuildState.RUNNING.value,
            )
            .values(lease_owner="", lease_token="", lease_expires_at=None)
        )

    async def finish(
        self,
        lease: Lease,
        to: BuildState,
        *,
        artifact: str = "",
        runtime_version: str = "",
        error: str = "",
        reason: str = "",
    ) -> bool:
        """Move a leased build to its end; False when the lease was lost meanwhile.

        Give its versions the result in the same transaction, after this: a publish that ties one
        more version to the build waits for that, or is waited for here.
        """
        sources = [state.value for state, targets in MOVES.items() if to in targets]
        row = await self._connection.execute(
            update(_builds)
            .where(
                _builds.c.id == lease.row_id,
                _builds.c.lease_token == lease.token,
                _builds.c.state.in_(sources),
            )
            .values(
                state=to.value,
                artifact=artifact,
                runtime_version=runtime_version,
                error=error,
                error_reason=reason,
                completed_at=func.now(),
                lease_owner="",
                lease_token="",
                lease_expires_at=None,
            )
            .returning(_builds.c.id)
        )
        return row.scalar_one_or_none() is not None

    async def add_lines(self, build_id: str, lines: Sequence[BuildLine]) -> None:
        """Append lines of a log; their numbers are the writer's."""
        if not lines:
            return
        await self._connection.execute_many(
            _ADD_LINE,
            [
                {
                    "build_id": build_id,
                    "number": line.number,
                    "at": line.at,
                    "stream": line.stream,
                    "message": line.message,
                }
                for line in lines
            ],
        )

    async def last_line(self, build_id: str) -> int:
        """Return the number of the last stored line, 0 when there is none."""
        found = await self._connection.execute(
            select(func.coalesce(func.max(_lines.c.number), 0)).where(_lines.c.build_id == build_id)
        )
        number: int = found.scalar_one()
        return number

    async def lines(self, build_id: str, *, after: int, limit: int) -> tuple[BuildLine, ...]:
        """Return up to `limit` lines behind number `after`."""
        rows = await self._connection.execute(
            select(_lines)
            .where(_lines.c.build_id == build_id, _lines.c.number > after)
            .order_by(_lines.c.number)
            .limit(limit)
        )
        return tuple(values.line_of(row) for row in rows)
