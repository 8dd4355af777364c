"""The one-shot role that migrates the database."""

import asyncio

from ignite.bootstrap.run import database_url
from ignite.db.migrate import DatabaseTooNew, migrate
from ignite.settings import Settings, SettingsError


def run_migrations(settings: Settings) -> None:
    """Bring the schema to this release."""
    try:
        asyncio.run(migrate(database_url(settings)))
    except DatabaseTooNew as error:
        raise SettingsError(str(error)) from error
