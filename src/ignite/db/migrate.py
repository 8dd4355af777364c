"""Migrations at start, under a lock, so that any number of servers may start at once."""

import asyncio

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ignite.db.scripts import scripts

_LOCK = 0x19A17E  # any constant of ours; advisory locks share one number space
_LOCK_POLL_SECS = 0.05


class DatabaseTooNew(Exception):
    """The database was migrated by a newer release."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts()))
    return config


async def migrate(url: str, revision: str = "head", *, timeout_secs: float = 60.0) -> None:
    """Bring the schema to `revision`, waiting for others that migrate.

    Raises DatabaseTooNew when the database has a revision that this release does not know.
    """
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool
    )
    try:
        async with asyncio.timeout(timeout_secs), engine.connect() as connection:
            await _lock(connection)
            try:
                await connection.run_sync(_run, revision)
            finally:
                await connection.rollback()
                await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
                await connection.commit()
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Take the lock, asking again and again.

    A session that waits inside `pg_advisory_lock` holds a snapshot, and CREATE INDEX CONCURRENTLY
    of the one that has the lock would wait for it: a deadlock.
    """
    while True:
        taken = await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK})
        await connection.commit()
        if taken.scalar_one():
            return
        await asyncio.sleep(_LOCK_POLL_SECS)


def _run(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    known = {found.revision for found in ScriptDirectory.from_config(config).walk_revisions()}
    try:
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DBAPIError:
        current = None
    connection.rollback()
    if current is not None and current not in known:
        raise DatabaseTooNew(
            f"the database is at migration {current!r}, which this release does not know: "
            "run the newer release"
        )
    if current is not None and current == max(known) and revision == "head":
        return
    if revision == "head" or revision.startswith("+"):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
