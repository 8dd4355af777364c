"""Migrations: up, down one, up again; the models match; many servers may start at once."""

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from ignite.db.migrate import DatabaseTooNew, migrate
from ignite.db.scripts import scripts
from ignite.db.tables import metadata


async def look(url: str, ask: Any) -> Any:
    """Return what `ask(connection)` finds."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(ask)
    finally:
        await engine.dispose()


async def execute(url: str, statement: str) -> None:
    await look(url, lambda connection: connection.execute(text(statement)))


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, metadata))


async def revision_of(url: str) -> str:
    def ask(connection: Connection) -> str:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())

    return str(await look(url, ask))


async def test_models_match_the_migrations(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    assert await look(empty_database_url, differences) == []


async def test_up_down_one_up(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    head = await revision_of(empty_database_url)
    await migrate(empty_database_url, "-1")
    assert await revision_of(empty_database_url) != head
    await migrate(empty_database_url)
    assert await revision_of(empty_database_url) == head
    assert await look(empty_database_url, differences) == []


async def test_down_to_nothing_leaves_no_table(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    await migrate(empty_database_url, "base")
    assert await look(empty_database_url, tables) <= {"alembic_version"}


async def test_second_run_changes_nothing(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    before = await look(empty_database_url, tables)
    await migrate(empty_database_url)
    assert await look(empty_database_url, tables) == before


async def test_servers_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    async with asyncio.TaskGroup() as servers:
        for _ in range(4):
            servers.create_task(migrate(empty_database_url))
    assert await look(empty_database_url, differences) == []


async def test_database_of_a_newer_release_is_refused(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    await execute(empty_database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew, match="9999"):
        await migrate(empty_database_url)


def test_there_is_one_line_of_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts()))
    found = ScriptDirectory.from_config(config)
    assert len(found.get_heads()) == 1
    for migration in found.walk_revisions():
        source = (scripts() / "versions" / migration.path.rpartition("/")[2]).read_text()
        assert "lock_timeout" in source, migration.revision
        assert "statement_timeout" in source, migration.revision
        assert migration.doc, migration.revision
