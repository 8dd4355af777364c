"""What rows refer to outside the database, and the removal of rows that have served.

Each answer about references is one statement, so one snapshot: while a row is being copied into
another one (a publish copies the draft's), one of the two is always seen.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    union,
)

from ignite.db import tables
from ignite.db.connection import Prepared, prepared
from ignite.db.database import Database
from ignite.domain.builds import BuildState
from ignite.layout import artifact_tag
from ignite.ports.shelves import ShelfKind

_apps = tables.apps
_versions = tables.versions
_builds = tables.builds
_lines = tables.build_lines

_IS_OPEN = or_(*(_builds.c.state == state.value for state in BuildState if not state.is_terminal))
_HAS_ENDED = or_(*(_builds.c.state == state.value for state in BuildState if state.is_terminal))

_ANY_NAME = any_(bindparam("names", type_=ARRAY(Text)))
_OF_VERSIONS = _versions.join(_apps, _apps.c.id == _versions.c.app_id)

_BLOBS = prepared(
    union(
        select(_apps.c.organization, _versions.c.blob)
        .select_from(_OF_VERSIONS)
        .where(_versions.c.blob == _ANY_NAME),
        # A build that has ended reads its source no more.
        select(_builds.c.organization, _builds.c.blob).where(_builds.c.blob == _ANY_NAME, _IS_OPEN),
    )
)
_ARTIFACTS = prepared(
    union(
        select(_apps.c.organization, _versions.c.artifact)
        .select_from(_OF_VERSIONS)
        .where(_versions.c.artifact == _ANY_NAME),
        # Equal code that is saved later gets the artifact of a build that succeeded.
        select(_builds.c.organization, _builds.c.artifact).where(_builds.c.artifact == _ANY_NAME),
    )
)
_OPEN_BUILDS = prepared(select(_builds.c.id).where(_builds.c.id == _ANY_NAME, _IS_OPEN))

_ENDED_LONG_AGO = and_(
    _HAS_ENDED,
    _builds.c.completed_at < bindparam("before", type_=DateTime(timezone=True)),
)
_LIMIT = bindparam("limit", type_=Integer)
_DROP_BUILDS = prepared(
    delete(_builds)
    .where(
        _builds.c.id.in_(
            select(_builds.c.id)
            .where(
                _ENDED_LONG_AGO,
                ~exists().where(
                    _versions.c.app_id == _builds.c.app_id, _versions.c.build_id == _builds.c.id
                ),
            )
            .limit(_LIMIT)
            .with_for_update(skip_locked=True)
        )
    )
    .returning(_builds.c.id)
)


def _has_line(number: int) -> ColumnElement[bool]:
    return exists().where(_lines.c.build_id == _builds.c.id, _lines.c.number == number)


# The last line stays: that there is a gap in front of it is how readers know what is missing.
_LOGS_TO_DROP = (
    select(_builds.c.id)
    .where(_ENDED_LONG_AGO, _has_line(1), _has_line(2))
    .limit(_LIMIT)
    .cte("ended")
)
_last = _lines.alias("last_lines")
_DROP_LINES = prepared(
    delete(_lines)
    .where(
        _lines.c.build_id == _LOGS_TO_DROP.c.id,
        _lines.c.number
        < select(func.max(_last.c.number))
        .where(_last.c.build_id == _LOGS_TO_DROP.c.id)
        .scalar_subquery(),
    )
    .returning(_lines.c.number)
)


class References:
    """Asks for all organisations at once: the janitor's, and nobody else's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def among(self, kind: ShelfKind, keys: Sequence[str]) -> Collection[str]:
        """Return those of the keys of a shelf that a row refers to."""
        match kind:
            case ShelfKind.BLOB:
                return await self._blobs(keys)
            case ShelfKind.ARTIFACT:
                return await self._artifacts(keys)
            case ShelfKind.WORK_FOLDER:
                return await self._work_folders(keys)

    async def drop_builds(self, *, before: datetime, limit: int) -> int:
        """Remove builds with their logs that ended before then and that no version names."""
        async with self._database.transaction() as tx:
            rows = await tx.connection.execute(_DROP_BUILDS, {"before": before, "limit": limit})
        return len(rows.scalars())

    async def drop_lines(self, *, before: datetime, limit: int) -> int:
        """Remove the lines, all but the last, of up to `limit` builds that ended before then."""
        async with self._database.transaction() as tx:
            rows = await tx.connection.execute(_DROP_LINES, {"before": before, "limit": limit})
        return len(rows.scalars())

    async def _blobs(self, keys: Sequence[str]) -> Collection[str]:
        names = [key.partition("/")[2] for key in keys]
        return {f"{organization}/{blob}" for organization, blob in await self._rows(_BLOBS, names)}

    async def _artifacts(self, keys: Sequence[str]) -> Collection[str]:
        names = [key.partition("/")[2] for key in keys]
        return {
            f"{artifact_tag(organization)}/{artifact}"
            for organization, artifact in await self._rows(_ARTIFACTS, names)
        }

    async def _work_folders(self, keys: Sequence[str]) -> Collection[str]:
        # Its name is the build's with something random behind it.
        names = [key.rpartition("-")[0] for key in keys]
        open_builds = {name for (name,) in await self._rows(_OPEN_BUILDS, names)}
        return {key for key, name in zip(keys, names, strict=True) if name in open_builds}

    async def _rows(self, statement: Prepared, names: list[str]) -> list[tuple[str, ...]]:
        async with self._database.reading() as tx:
            return [tuple(row) for row in await tx.connection.execute(statement, {"names": names})]
