"""Versions: the draft and what was published."""

from collections.abc import Iterable

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ignite.db import tables, values
from ignite.db.connection import Connection, prepared
from ignite.domain.apps import DRAFT, App, AppConfig
from ignite.domain.builds import Build
from ignite.domain.versions import MOVES, Code, Version, VersionStatus

_versions = tables.versions
_GET = prepared(
    select(_versions).where(
        _versions.c.app_id == bindparam("app_id"), _versions.c.number == bindparam("number")
    )
)
_MAX_NUMBER = 2**31 - 1  # of the column; the wire has more


class VersionStore:
    """Reads and writes versions of one transaction. Callers have got the app within its tenant."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def save_draft(
        self, app: App, code: Code, artifact: str, runtime_version: str = ""
    ) -> Version:
        """Replace version 0. `artifact` is that of equal code compiled before, or ""."""
        columns = {
            **values.code_to_columns(code),
            "status": int(VersionStatus.DRAFT),
            "artifact": artifact,
            "runtime_version": runtime_version,
            "build_id": "",
            "deploy_id": "",
            "config": values.config_to_json(app.config),
            "error": "",
            "error_reason": "",
            "created_at": func.now(),
            "compiled_at": func.now() if artifact else None,
        }
        row = await self._connection.execute(
            insert(_versions)
            .values(app_id=app.id, number=DRAFT, **columns)
            .on_conflict_do_update(index_elements=["app_id", "number"], set_=columns)
            .returning(_versions)
        )
        return values.version_of(row.one())

    async def publish(
        self, draft: Version, number: int, config: AppConfig, status: VersionStatus
    ) -> Version:
        """Insert the draft's code as version `number`."""
        row = await self._connection.execute(
            insert(_versions)
            .values(
                app_id=draft.app_id,
                number=number,
                **values.code_to_columns(draft.code),
                status=int(status),
                artifact=draft.artifact,
                runtime_version=draft.runtime_version,
                build_id=draft.build_id,
                deploy_id=draft.deploy_id,
                config=values.config_to_json(config),
                compiled_at=draft.compiled_at,
            )
            .returning(_versions)
        )
        return values.version_of(row.one())

    async def get(self, app_id: int, number: int) -> Version | None:
        """Return one version of the app, or None."""
        if not DRAFT <= number <= _MAX_NUMBER:
            return None
        row = await self._connection.execute(_GET, {"app_id": app_id, "number": number})
        found = row.one_or_none()
        return values.version_of(found) if found else None

    async def list(self, app_id: int, *, below: int, limit: int) -> tuple[Version, ...]:
        """Return published versions, newest first, those below a number (0: from the newest)."""
        query = select(_versions).where(_versions.c.app_id == app_id, _versions.c.number > DRAFT)
        if below:
            query = query.where(_versions.c.number < min(below, _MAX_NUMBER))
        rows = await self._connection.execute(
            query.order_by(_versions.c.number.desc()).limit(limit)
        )
        return tuple(values.version_of(row) for row in rows)

    async def of_apps(self, wanted: Iterable[tuple[int, int]]) -> tuple[Version, ...]:
        """Return the versions named by (app id, number) pairs."""
        pairs = list(wanted)
        if not pairs:
            return ()
        ids = [app_id for app_id, _ in pairs]
        rows = await self._connection.execute(
            select(_versions).where(_versions.c.app_id.in_(ids), _versions.c.number >= 0)
        )
        keep = set(pairs)
        return tuple(
            values.version_of(row) for row in rows if (row["app_id"], row["number"]) in keep
        )

    async def move(
        self,
        app_id: int,
        number: int,
        to: VersionStatus,
        *,
        error: str = "",
        reason: str = "",
    ) -> bool:
        """Move a version to `to`; False if its state does not allow that (any more)."""
        sources = [int(state) for state, targets in MOVES.items() if to in targets]
        moved = await self._connection.execute(
            update(_versions)
            .where(
                _versions.c.app_id == app_id,
                _versions.c.number == number,
                _versions.c.status.in_(sources),
            )
            .values(status=int(to), error=error, error_reason=reason)
            .returning(_versions.c.number)
        )
        return moved.scalar_one_or_none() is not None

    async def attach_build(self, app_id: int, number: int, build: Build) -> None:
        """Tie a version to the build that makes its artifact, and mark it COMPILING."""
        await self._connection.execute(
            update(_versions)
            .where(_versions.c.app_id == app_id, _versions.c.number == number)
            .values(
                build_id=build.id,
                deploy_id=build.deploy_id,
                status=int(VersionStatus.COMPILING),
                error="",
                error_reason="",
            )
        )

    async def compiled(
        self, build: Build, artifact: str, runtime_version: str = ""
    ) -> tuple[int, ...]:
        """Give the artifact to every version that waits for this build; returns their numbers.

        A draft saved anew meanwhile has another build id and is left alone.
        """
        rows = await self._connection.execute(
            update(_versions)
            .where(
                _versions.c.app_id == build.app_id,
                _versions.c.build_id == build.id,
                _versions.c.status == int(VersionStatus.COMPILING),
            )
            .values(
                artifact=artifact,
                runtime_version=runtime_version,
                status=int(VersionStatus.DRAFT),
                compiled_at=func.now(),
            )
            .returning(_versions.c.number)
        )
        return tuple(rows.scalars())

    async def failed(self, build: Build, error: str, reason: str) -> tuple[int, ...]:
        """Fail every version that waits for this build; returns their numbers."""
        rows = await self._connection.execute(
            update(_versions)
            .where(
                _versions.c.app_id == build.app_id,
                _versions.c.build_id == build.id,
                _versions.c.status == int(VersionStatus.COMPILING),
            )
            .values(status=int(VersionStatus.FAILED), error=error, error_reason=reason)
            .returning(_versions.c.number)
        )
        return tuple(rows.scalars())
