"""Removes what no row refers to any more: sources, artifacts, work folders, old compiles.

Rows and files are not written in one transaction, so a look at both never shows one moment. Sources
and artifacts are named by content, so one that nobody needs may be wanted again while it is being
removed. What makes the removal safe is three rules, each of which closes what the others leave:

1. Whoever keeps a thing that is there already gives it a new stamp, under a lock, before the row
   that refers to it is written. A removal compares the stamp under the same lock.
2. Only a thing is taken down as unneeded that no row refers to and whose stamp is older than the
   grace: a row that follows such a stamp was written by then.
3. It is removed when after the grace again no row refers to it, and it bears the same stamp. A row
   that was under way at the first look is seen at the second; so is one that was copied from a row
   that is gone. What still runs from an artifact has ended by then.

The grace is longer than any transaction, call or compile. Notes are kept in memory: a restart costs
time and nothing else. The clock on the wall decides rule 2 alone, so a jump of it removes nothing
that rule 3 keeps.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from ignite.db.references import References
from ignite.domain.errors import Unavailable
from ignite.ports.shelves import Kept, Removed, Shelf, ShelfKind
from ignite.telemetry.metrics import Registry, counter, gauge

logger = logging.getLogger(__name__)

_PAGE = 1000
_PAGES_A_ROUND = 20
_BUILDS_AT_ONCE = 20
_BATCHES_A_ROUND = 50
# Of what is found unneeded beyond this many, more is noted once these are gone.
_MOST_NOTES = 100_000
_STARTS_AFTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorRules:
    """How patient the janitor is. `interval` zero: it removes nothing."""

    interval: timedelta
    grace: timedelta
    build_log_age: timedelta


class _Drop(Protocol):
    async def __call__(self, *, before: datetime, limit: int) -> int: ...


@dataclass(frozen=True, slots=True)
class _Note:
    """A thing was not needed at `seen_at` (monotonic); `walk` last met it."""

    stamp: tuple[int, int]
    seen_at: float
    walk: int


@dataclass(slots=True)
class _Walk:
    """Where the walk along one shelf stands, and what it found."""

    after: str = ""
    number: int = 0
    notes: dict[str, _Note] = field(default_factory=dict)


class JanitorMetrics:
    """Counts what was removed, by kind."""

    def __init__(self, registry: Registry) -> None:
        self.removed = counter(
            registry, "janitor_removed", "Things removed that nothing referred to.", ["kind"]
        )
        self.freed = counter(
            registry, "janitor_freed_bytes", "Bytes of disk that they took.", ["kind"]
        )
        self.failures = counter(registry, "janitor_failures", "Rounds that were broken off.")
        self.last = gauge(
            registry, "janitor_last_round_timestamp_seconds", "When a round was last done in full."
        )
        for kind in (*ShelfKind, "build", "build_line"):
            self.removed.labels(kind=str(kind))
        for kind in ShelfKind:
            self.freed.labels(kind=str(kind))


class Janitor:
    """Looks and removes, at an interval, a bounded part of each shelf a round. A Component."""

    name = "janitor"

    def __init__(
        self,
        shelves: Sequence[Shelf],
        references: References,
        rules: JanitorRules,
        metrics: JanitorMetrics,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelves = shelves
        self._references = references
        self._rules = rules
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic
        self._walks = {shelf.kind: _Walk() for shelf in shelves}

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled; a round that fails is followed by the next one."""
        ready()
        pause = self._rules.interval.total_seconds()
        if not pause:
            await asyncio.Event().wait()
        # Not with the others that have just started.
        await asyncio.sleep(pause * _STARTS_AFTER)
        while True:
            try:
                await self.round()
            except Unavailable as error:
                self._metrics.failures.inc()
                logger.warning("janitor: round broken off", extra={"error": error.message})
            except Exception:  # a bug of ours or a bad disk must not end the controllers
                self._metrics.failures.inc()
                logger.exception("janitor: round failed")
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - jitter

    async def round(self) -> dict[str, Removed]:
        """Look at the next part of everything; return what was removed, by kind.

        What fails on one shelf is raised once the other shelves are done.
        """
        done: dict[str, Removed] = {}
        failures: list[Exception] = []
        for shelf in self._shelves:
            done[shelf.kind] = Removed()
            try:
                async for removed in self._walk(shelf):
                    done[shelf.kind] += removed
            except Exception as error:  # noqa: BLE001 - `run` tells of it
                failures.append(error)
        if failures:
            self._tell(done)
            raise failures[0]
        before = self._now() - self._rules.build_log_age
        done["build"] = await self._drop(self._references.drop_builds, before)
        done["build_line"] = await self._drop(self._references.drop_lines, before)
        self._tell(done)
        self._metrics.last.set(self._now().timestamp())
        return done

    async def _walk(self, shelf: Shelf) -> AsyncIterator[Removed]:
        """Walk along a shelf for as far as one round goes."""
        yield await shelf.tidy()
        walk = self._walks[shelf.kind]
        for _ in range(_PAGES_A_ROUND):
            yield await self._look(shelf, walk)
            if not walk.after:
                break

    async def _look(self, shelf: Shelf, walk: _Walk) -> Removed:
        """Look at the next page of a shelf."""
        began = self._monotonic()
        page = await shelf.page(after=walk.after, limit=_PAGE)
        needed: frozenset[str] = frozenset()
        if page:
            keys = [kept.key for kept in page]
            needed = frozenset(await self._references.among(shelf.kind, keys))
        ended = self._monotonic()
        removed = Removed()
        for kept in page:
            if kept.key in needed:
                walk.notes.pop(kept.key, None)
            elif self._is_due(kept, walk, began, ended):
                removed += await self._remove(shelf, kept)
        self._go_on(walk, page)
        return removed

    def _is_due(self, kept: Kept, walk: _Walk, began: float, ended: float) -> bool:
        """Tell whether an unneeded thing has been so for the grace; takes it down if not."""
        note = walk.notes.get(kept.key)
        grace_secs = self._rules.grace.total_seconds()
        if note is not None and note.stamp == kept.stamp:
            walk.notes[kept.key] = _Note(note.stamp, note.seen_at, walk.number)
            return began - note.seen_at >= grace_secs
        walk.notes.pop(kept.key, None)
        is_old = kept.modified_at < self._now().timestamp() - grace_secs
        if is_old and len(walk.notes) < _MOST_NOTES:
            walk.notes[kept.key] = _Note(kept.stamp, ended, walk.number)
        return False

    async def _remove(self, shelf: Shelf, kept: Kept) -> Removed:
        try:
            return await shelf.remove(kept)
        except Exception:  # the others are not less waste for it, and the next walk meets it again
            logger.warning(
                "not removed", extra={"kind": shelf.kind, "key": kept.key}, exc_info=True
            )
            return Removed()

    def _go_on(self, walk: _Walk, page: Sequence[Kept]) -> None:
        if len(page) == _PAGE:
            walk.after = page[-1].key
            return
        walk.after = ""
        for key in [key for key, note in walk.notes.items() if note.walk != walk.number]:
            del walk.notes[key]
        walk.number += 1

    async def _drop(self, drop: _Drop, before: datetime) -> Removed:
        count = 0
        for _ in range(_BATCHES_A_ROUND):
            dropped = await drop(before=before, limit=_BUILDS_AT_ONCE)
            count += dropped
            if not dropped:
                break
        return Removed(count=count)

    def _tell(self, done: dict[str, Removed]) -> None:
        for kind, removed in done.items():
            self._metrics.removed.labels(kind=str(kind)).inc(removed.count)
            if removed.size_bytes:
                self._metrics.freed.labels(kind=str(kind)).inc(removed.size_bytes)
        if any(removed.count for removed in done.values()):
            counts = {f"{kind}s": removed.count for kind, removed in done.items() if removed.count}
            size_bytes = sum(removed.size_bytes for removed in done.values())
            logger.info("removed what nothing refers to", extra={**counts, "bytes": size_bytes})
