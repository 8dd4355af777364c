"""Is the schema this release's? Answered without loading the migration machinery."""

import asyncpg

from ignite.db.scripts import scripts


class DatabaseAway(Exception):
    """The database cannot be reached or does not let us in; the text names no password."""


def head() -> str:
    """Return the newest migration of this release: their names sort by their numbers."""
    return max(path.name for path in (scripts() / "versions").glob("[0-9]*.py"))[:4]


async def is_current(url: str) -> bool:
    """Tell whether the database at `url` has exactly this release's schema.

    Raises DatabaseAway.
    """
    try:
        connection = await asyncpg.connect(dsn=url, timeout=10)
    except TimeoutError:
        raise DatabaseAway("no answer within 10 s") from None
    except OSError as error:
        raise DatabaseAway(error.strerror or str(error)) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise DatabaseAway(str(error)) from None
    try:
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()
    return bool(found == head())
