"""Hints that a build has new lines or has ended, for those who follow one.

One connection listens for the whole process. A hint may be lost or doubled: who waits looks again
after a while on its own.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ignite.db.database import BUILD_LINES_CHANNEL, Database


class BuildLineHints:
    """Wakes those who watch a build. A Component."""

    name = "build-line-hints"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: dict[str, set[asyncio.Event]] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until cancelled; ready at once, because polling works without."""
        ready()
        await self._database.listen((BUILD_LINES_CHANNEL,), self._hear)

    @contextmanager
    def watch(self, build_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set at every hint; clear it before looking, then wait."""
        event = asyncio.Event()
        self._watchers.setdefault(build_id, set()).add(event)
        try:
            yield event
        finally:
            watching = self._watchers[build_id]
            watching.discard(event)
            if not watching:
                del self._watchers[build_id]

    def _hear(self, _channel: str, payload: str) -> None:
        chosen = [payload] if payload else list(self._watchers)
        for build_id in chosen:
            for event in self._watchers.get(build_id, ()):
                event.set()
