"""Logs of builds: as stored, and followed while they grow.

No transaction is held while waiting. The state is read before the lines, so that a build seen as
ended has all its lines in the same look.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ignite.db.database import Database
from ignite.db.hints import BuildLineHints
from ignite.domain.apps import AppRef
from ignite.domain.builds import Build, BuildLine
from ignite.domain.errors import NotFound
from ignite.domain.identity import Organization

PAGE = 500
POLL_SECS = 1.0
_LINE_OVERHEAD = 32
_ID = re.compile(r"(bld|dep)_[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLog:
    """A stored log. `is_truncated` says that lines of its middle are missing."""

    build: Build
    lines: tuple[BuildLine, ...]
    is_truncated: bool


class BuildLogs:
    """Reads logs of builds."""

    def __init__(self, database: Database, hints: BuildLineHints, *, reply_bytes: int) -> None:
        self._database = database
        self._hints = hints
        self._reply_bytes = reply_bytes

    async def get(self, ref: AppRef, build_id: str) -> BuildLog:
        """Return the stored log of one build of the app; raises NotFound.

        The first and the last lines of a log that is too long for one answer.
        """
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            build = await tx.builds.get(app.id, build_id) if _ID.fullmatch(build_id) else None
        if build is None:
            raise NotFound(f"app {ref.id!r} has no build {build_id[:40]!r}", reason="BuildNotFound")
        collected = _Ends(self._reply_bytes)
        last = 0
        while True:
            async with self._database.reading() as tx:
                page = await tx.builds.lines(build_id, after=last, limit=PAGE)
            for line in page:
                collected.add(line)
            if len(page) < PAGE:
                return BuildLog(build=build, lines=collected.lines, is_truncated=collected.has_gap)
            last = page[-1].number

    async def follow(
        self, organization: Organization, deploy_id: str
    ) -> AsyncGenerator[BuildLine | Build, None]:
        """Yield the lines of a compile until it ends, then the ended Build; raises NotFound."""
        build = await self._by_deploy_id(organization, deploy_id)
        last = 0
        with self._hints.watch(build.id) as hinted:
            while True:
                hinted.clear()
                build = await self._by_deploy_id(organization, deploy_id)
                async with self._database.reading() as tx:
                    page = await tx.builds.lines(build.id, after=last, limit=PAGE)
                for line in page:
                    yield line
                    last = line.number
                if len(page) == PAGE:
                    continue
                if build.state.is_terminal:
                    yield build
                    return
                await _wait(hinted)

    async def until_ended(self, organization: Organization, deploy_id: str) -> Build:
        """Wait until a build has ended and return it; the caller bounds the wait."""
        build = await self._by_deploy_id(organization, deploy_id)
        with self._hints.watch(build.id) as hinted:
            while True:
                hinted.clear()
                build = await self._by_deploy_id(organization, deploy_id)
                if build.state.is_terminal:
                    return build
                await _wait(hinted)

    async def _by_deploy_id(self, organization: Organization, deploy_id: str) -> Build:
        build = None
        if _ID.fullmatch(deploy_id):
            async with self._database.reading() as tx:
                build = await tx.builds.by_deploy_id(organization.name, deploy_id)
        if build is None:
            raise NotFound(f"no compile {deploy_id[:40]!r}", reason="BuildNotFound")
        return build


async def _wait(hinted: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(POLL_SECS):
            await hinted.wait()
    except TimeoutError:
        pass


class _Ends:
    """Keeps the first and the last lines of many, half of the bytes each."""

    def __init__(self, total_bytes: int) -> None:
        self._half = total_bytes // 2
        self._first: list[BuildLine] = []
        self._first_bytes = 0
        self._is_first_full = False
        self._last: deque[BuildLine] = deque()
        self._last_bytes = 0
        self._highest = 0

    def add(self, line: BuildLine) -> None:
        """Take the next line, dropping from the middle what does not fit."""
        size = _size(line)
        self._highest = line.number
        if not self._is_first_full and self._first_bytes + size <= self._half:
            self._first.append(line)
            self._first_bytes += size
            return
        self._is_first_full = True
        self._last.append(line)
        self._last_bytes += size
        while self._last_bytes > self._half and self._last:
            self._last_bytes -= _size(self._last.popleft())

    @property
    def lines(self) -> tuple[BuildLine, ...]:
        """Return what was kept, in order."""
        return (*self._first, *self._last)

    @property
    def has_gap(self) -> bool:
        """Tell whether a number is missing: dropped here, or by the writer at its own cap."""
        return self._highest != len(self._first) + len(self._last)


def _size(line: BuildLine) -> int:
    return len(line.message.encode()) + len(line.stream) + _LINE_OVERHEAD
