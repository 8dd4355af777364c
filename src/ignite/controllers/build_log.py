"""The stored log of one build, and the lease that goes with it.

Lines are stored in batches, each in one transaction with a renewal of the lease: a worker that has
lost its lease, or whose app was deleted, cannot add a line behind another one's.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from ignite.db.database import BUILD_LINES_CHANNEL, Database
from ignite.db.leases import Lease
from ignite.domain.builds import Build, BuildLine
from ignite.domain.errors import Unavailable

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
SYSTEM = "system"

_RENEW_SECS = 10.0
_FLUSH_SECS = 0.2
_BATCH = 1000
_MAX_LINE_CHARS = 8192
# What a line costs besides its text: a flood of empty lines ends as well.
_LINE_BYTES = 16


class LeaseLost(Exception):
    """Another worker has the build now, or nobody: drop everything."""


class BuildLog:
    """Takes lines and stores them; past its bound it says so once and drops what follows."""

    def __init__(self, database: Database, build: Build, lease: Lease, max_bytes: int) -> None:
        self._database = database
        self._build = build
        self._lease = lease
        self._left = max_bytes
        self._is_full = False
        self._last = 0
        self._waiting: list[BuildLine] = []
        self._flushing = asyncio.Lock()
        self._is_unsure = False

    async def start(self) -> None:
        """Go on behind the lines of an earlier attempt."""
        async with self._database.transaction() as tx:
            self._last = await tx.builds.last_line(self._build.id)

    async def write(self, stream: str, message: str) -> None:
        """Take one line; ours (`system`) are never dropped."""
        message = _storable(message[:_MAX_LINE_CHARS])
        if stream == SYSTEM:
            self._append(stream, message)
            return
        if self._is_full:
            return
        self._left -= len(message.encode()) + _LINE_BYTES
        if self._left < 0:
            self._is_full = True
            self._append(SYSTEM, "the log is full; further lines are dropped")
        else:
            self._append(stream, message)

    def _append(self, stream: str, message: str) -> None:
        self._last += 1
        self._waiting.append(
            BuildLine(number=self._last, at=datetime.now(UTC), stream=stream, message=message)
        )

    async def keep(self) -> None:
        """Store what has come, several times a second, and renew the lease; raises LeaseLost."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            await asyncio.sleep(_FLUSH_SECS)
            if not self._waiting and loop.time() - renewed_at < _RENEW_SECS:
                continue
            try:
                await self.flush()
                renewed_at = loop.time()
            except LeaseLost:
                raise
            except Unavailable:
                # Lines wait; whether the lease holds is seen when the database is back.
                continue
            except Exception:
                logger.exception("build lines not stored", extra={"build": self._build.id})

    async def flush(self) -> None:
        """Store what has come and renew the lease; raises LeaseLost."""
        async with self._flushing:
            while True:
                batch = self._waiting[:_BATCH]
                await self._store(batch)
                del self._waiting[: len(batch)]
                if not self._waiting:
                    return

    async def _store(self, batch: list[BuildLine]) -> None:
        async with self._database.transaction() as tx:
            if not await tx.builds.renew(self._lease, LEASE):
                raise LeaseLost(self._build.id)
            if self._is_unsure:
                # The commit may have been done although its answer was lost.
                stored = await tx.builds.last_line(self._build.id)
                batch = [line for line in batch if line.number > stored]
            self._is_unsure = True
            if batch:
                await tx.builds.add_lines(self._build.id, batch)
                await tx.notify(BUILD_LINES_CHANNEL, self._build.id)
        self._is_unsure = False


def _storable(text: str) -> str:
    """Return the text with what Postgres cannot keep replaced: NUL, and halves of characters."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
