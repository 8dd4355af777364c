"""Requests that wait for a replica: bounded, woken once, served in order, failed with a reason.

A line is what waits for one target. Slots of replicas are counted here, so that a replica that has
just become ready gets what it can take at once and no more. A full line never stops the dispatch to
replicas that are ready: only waiting is bounded.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    NotFound,
    Unavailable,
)
from ignite.domain.routes import Route
from ignite.domain.workloads import Replica
from ignite.gateway.table import RouteTable, Target, tag_of, targets_of

logger = logging.getLogger(__name__)

WAKE_AGAIN_SECS = 5.0
"""A wake that brought nothing is repeated: the one who heard it may have been restarted."""

LEARN_SECS = 10.0
"""How long a request to an unknown host waits for controllers to tell all routes."""

LONGEST_DELAY_SECS = 0.5
"""Between two wakes of controllers that do not answer: a restart of them should cost no more."""

NEWS_SECS = 0.3
"""How long a request to an unknown host waits all the same: who was told that an app is active may
be a step ahead of the route."""

PAUSE_SECS = 0.1
"""A replica that was full or did not answer is left alone for so long."""

_UNKNOWN = frozenset({"AppNotFound", "VersionNotFound", "VersionNotReady", "NotFound"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAnswer:
    """What controllers say to a wake; `ok` false means that no replica will come."""

    ok: bool
    reason: str = ""
    message: str = ""
    key: str = ""


class Waker(Protocol):
    """Asks controllers for a replica."""

    async def wake(self, target: Target) -> WakeAnswer:
        """Ask once. Raises Unavailable when controllers do not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The right to send one request to one replica; given back by `Holding.release`."""

    route: Route
    replica: Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingLimits:
    """Bounds on waiting."""

    per_app: int
    overall: int
    budget_secs: float
    default_max_concurrency: int


@dataclass(slots=True)
class _Line:
    target: Target
    # In order of arrival; a dict, so that one who goes is found at once.
    waiting: "dict[asyncio.Future[Slot], None]" = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    waker: "asyncio.Task[None] | None" = None


class Holding:
    """All lines of a gateway. Belongs to one event loop."""

    def __init__(
        self,
        *,
        table: RouteTable,
        waker: Waker,
        limits: HoldingLimits,
    ) -> None:
        self._table = table
        self._waker = waker
        self._limits = limits
        self._lines: dict[Target, _Line] = {}
        self._held = 0
        self._busy: dict[str, int] = {}
        self._paused: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._learned = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def table(self) -> RouteTable:
        """Return the table in force."""
        return self._table

    @property
    def held(self) -> int:
        """Return how many requests wait."""
        return self._held

    def swap(self, table: RouteTable) -> None:
        """Put a new table in force and serve whom it helps."""
        before, self._table = self._table, table
        self._learned.set()
        self._news.set()
        self._news = asyncio.Event()
        for line in list(self._lines.values()):
            # The others have nothing of it: were they to wake once more, many starts at once would
            # cost the square of their number.
            if table.of_target(line.target) is not before.of_target(line.target):
                line.changed.set()
                self._serve(line)

    def close(self) -> None:
        """Send away who waits; nobody is woken any more."""
        self._closed = True
        self._learned.set()
        for line in list(self._lines.values()):
            self._fail(line, _stopping())
        for task in self._tasks:
            task.cancel()

    async def route_of_host(self, host: str) -> Route | None:
        """Return the route of a host; one that is not known gets a moment to become so.

        Raises Unavailable where controllers have not told any routes yet, and do not within a
        bound: the table on disk may be older than the app.
        """
        if (route := self._table.of_host(host)) is not None:
            return route
        await self._learn()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_SECS):
                while (route := self._table.of_host(host)) is None:
                    await self._news.wait()
        return route

    async def _learn(self) -> None:
        try:
            async with asyncio.timeout(LEARN_SECS):
                await self._learned.wait()
        except TimeoutError:
            raise Unavailable(
                "The gateway does not know all routes yet.", reason="RoutesUnknown"
            ) from None
        if self._closed:
            raise _stopping()

    async def acquire(self, target: Target, *, since: float) -> Slot:
        """Return a slot of a ready replica, at once or when one comes.

        The budget counts from `since`, a time of the monotonic clock.

        Raises Unavailable (`reason` says why no replica will come, or that too many wait), NotFound
        (no such app or version) and DeadlineExceeded.
        """
        if self._closed:
            raise _stopping()
        line = self._lines.get(target)
        if line is None or not line.waiting:
            slot = self._free_slot(target)
            if slot is not None:
                return self._take(slot)
        self._check(target, line)
        left = since + self._limits.budget_secs - time.monotonic()
        return await self._wait(target, max(left, 0.0))

    def release(self, slot: Slot, *, pause: bool = False) -> None:
        """Give a slot back. With `pause` the replica gets nothing for a moment."""
        busy = self._busy.get(slot.replica.id, 0) - 1
        if busy > 0:
            self._busy[slot.replica.id] = busy
        else:
            self._busy.pop(slot.replica.id, None)
        if pause:
            self._paused.add(slot.replica.id)
            asyncio.get_running_loop().call_later(
                PAUSE_SECS, self._resume, slot.replica.id, slot.route
            )
        else:
            self._resume(slot.replica.id, slot.route)

    def _resume(self, replica_id: str, route: Route) -> None:
        self._paused.discard(replica_id)
        for target in targets_of(route):
            line = self._lines.get(target)
            if line is not None:
                self._serve(line)

    def _check(self, target: Target, line: _Line | None) -> None:
        route = self._table.of_target(target)
        if route is not None and route.failure_reason and not route.is_warm:
            raise start_failure(route)
        waiting = len(line.waiting) if line else 0
        if waiting >= self._limits.per_app or self._held >= self._limits.overall:
            raise Unavailable(
                "Too many requests wait for this app to start.",
                reason="TooManyHeld",
                details={"retry_after_secs": "1"},
            )

    async def _wait(self, target: Target, wait_secs: float) -> Slot:
        line = self._lines.setdefault(target, _Line(target))
        place: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        line.waiting[place] = None
        self._held += 1
        if line.waker is None:
            self._start_waker(line)
        taken = False
        try:
            async with asyncio.timeout(wait_secs):
                slot = await place
            taken = True
        except TimeoutError:
            raise DeadlineExceeded(
                "No replica became ready in time.", reason="ColdStartTimeout"
            ) from None
        finally:
            self._leave(line, place, taken=taken)
        return slot

    def _leave(self, line: _Line, place: "asyncio.Future[Slot]", *, taken: bool) -> None:
        self._held -= 1
        line.waiting.pop(place, None)
        if not line.waiting and line.waker is None and self._lines.get(line.target) is line:
            del self._lines[line.target]
        line.changed.set()
        if not taken and place.done() and not place.cancelled() and place.exception() is None:
            # The slot came in the moment in which the caller went.
            self.release(place.result())

    def _free_slot(self, target: Target) -> Slot | None:
        route = self._table.of_target(target)
        if route is None:
            return None
        bound = route.max_concurrency or self._limits.default_max_concurrency
        free = [
            (self._busy.get(replica.id, 0), index)
            for index, replica in enumerate(route.replicas)
            if replica.id not in self._paused and self._busy.get(replica.id, 0) < bound
        ]
        return Slot(route=route, replica=route.replicas[min(free)[1]]) if free else None

    def _take(self, slot: Slot) -> Slot:
        self._busy[slot.replica.id] = self._busy.get(slot.replica.id, 0) + 1
        return slot

    def _serve(self, line: _Line) -> None:
        while line.waiting:
            first = next(iter(line.waiting))
            if not first.done():
                slot = self._free_slot(line.target)
                if slot is None:
                    break
                first.set_result(self._take(slot))
            del line.waiting[first]
        route = self._table.of_target(line.target)
        if line.waiting and route is not None and route.failure_reason and not route.is_warm:
            self._fail(line, start_failure(route))

    def _fail(self, line: _Line, error: IgniteError) -> None:
        waiting, line.waiting = line.waiting, {}
        for place in waiting:
            if not place.done():
                place.set_exception(error)

    def _start_waker(self, line: _Line) -> None:
        line.waker = asyncio.ensure_future(self._wake(line))
        self._tasks.add(line.waker)
        line.waker.add_done_callback(self._tasks.discard)

    async def _wake(self, line: _Line) -> None:
        """Ask for a replica as long as somebody waits and there is none."""
        delay = 0.05
        try:
            while line.waiting:
                line.changed.clear()
                route = self._table.of_target(line.target)
                if route is not None and route.is_warm:
                    await line.changed.wait()
                    continue
                try:
                    answer = await self._waker.wake(line.target)
                except Unavailable:
                    await _until(line.changed, delay)
                    delay = min(delay * 2, LONGEST_DELAY_SECS)
                    continue
                if not answer.ok:
                    self._fail(line, _refusal(answer))
                    return
                if line.target.tag and answer.key and tag_of(answer.key) != line.target.tag:
                    # Controllers read the record after who asks did: his code is the older one.
                    self._fail(line, _replaced())
                    return
                await _until(line.changed, WAKE_AGAIN_SECS)
        finally:
            line.waker = None
            if line.waiting and not self._closed:
                self._start_waker(line)
            elif not line.waiting and self._lines.get(line.target) is line:
                del self._lines[line.target]


def start_failure(route: Route) -> Unavailable:
    """Return the error of a route whose start is known to be impossible.

    The message may quote the app's own crash, so strangers get the reason word alone.
    """
    message = "The app cannot be started."
    if route.failure_message and not (route.allow_unauthenticated or route.is_public):
        message = route.failure_message
    return Unavailable(message, reason=route.failure_reason)


def _stopping() -> Unavailable:
    return Unavailable("The gateway restarts.", reason="GatewayStopping")


def _replaced() -> Unavailable:
    return Unavailable("The draft was saved again meanwhile.", reason="DraftChanged")


def _refusal(answer: WakeAnswer) -> IgniteError:
    if answer.reason in _UNKNOWN:
        return NotFound(answer.message or "No such app.", reason=answer.reason)
    return Unavailable(
        answer.message or "The app cannot be started.", reason=answer.reason or "StartFailed"
    )


async def _until(event: asyncio.Event, secs: float) -> None:
    try:
        async with asyncio.timeout(secs):
            await event.wait()
    except TimeoutError:
        return
