"""Is the schema this release's? Answered without loading the migration machinery."""

import asyncpg

from ignite.db.scripts import scripts


def head() -> str:
    """Return the newest migration of this release: their names sort by their numbers."""
    return max(path.name for path in (scripts() / "versions").glob("[0-9]*.py"))[:4]


async def is_current(url: str) -> bool:
    """Tell whether the database at `url` has exactly this release's schema."""
    connection = await asyncpg.connect(dsn=url, timeout=10)
    try:
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()
    return bool(found == head())
