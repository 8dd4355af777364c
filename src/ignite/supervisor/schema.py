"""The step between the database and its users: migrations, in a process of their own.

Only where there are any to run: looking costs one query, the machinery half a second.
"""

import asyncio
from collections.abc import Callable

from ignite.children import run_once
from ignite.db.schema import DatabaseAway, is_current
from ignite.layout import Layout
from ignite.settings import Settings
from ignite.supervisor.datadir import DataDirError
from ignite.supervisor.roles import role_child

_TIMEOUT_SECS = 120.0


class Schema:
    """Brings the schema up, then has nothing more to do. A Component."""

    name = "schema"

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings = settings
        self._layout = layout

    async def run(self, ready: Callable[[], None]) -> None:
        """Migrate if needed; raises DataDirError when the database cannot be brought up."""
        assert self._settings.database.url is not None
        if not await self._is_current(self._settings.database.url.get_secret_value()):
            spec = role_child("migrate", self._settings, self._layout, None)
            code, output = await run_once(spec, timeout_secs=_TIMEOUT_SECS)
            if code != 0:
                lines = output.strip().splitlines() or ["no output"]
                raise DataDirError(f"the database cannot be migrated: {lines[-1]}")
        ready()
        await asyncio.Event().wait()

    async def _is_current(self, url: str) -> bool:
        try:
            return await is_current(url)
        except DatabaseAway as error:
            raise DataDirError(f"the database does not answer: {error}") from None
