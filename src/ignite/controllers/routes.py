"""The board of routes: what all gateways should know, and what they have acknowledged."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace

from ignite.domain.routes import Route

logger = logging.getLogger(__name__)

_LOG_LENGTH = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One step for a gateway: everything (`is_snapshot`), or what changed since the last one."""

    revision: int
    is_snapshot: bool
    upserts: tuple[Route, ...]
    removed: tuple[str, ...]


class RouteBoard:
    """Keeps routes by key under a growing revision, and tells gateways.

    Revisions start at the process' start in microseconds, so that one of an earlier process is
    never taken for ours.
    """

    def __init__(self, *, ack_timeout_secs: float = 5.0) -> None:
        self._ack_timeout_secs = ack_timeout_secs
        self._revision = time.time_ns() // 1000
        self._first = self._revision
        self._routes: dict[str, Route] = {}
        self._log: deque[tuple[int, str]] = deque(maxlen=_LOG_LENGTH)
        self._changed = asyncio.Condition()
        self._acknowledged: dict[str, int] = {}
        self._draining: set[str] = set()
        self._wakers: set[asyncio.Event] = set()

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._revision

    def get(self, key: str) -> Route | None:
        """Return the route of a Workload, or None."""
        return self._routes.get(key)

    def put(self, route: Route) -> None:
        """Add or replace a route; an equal one changes nothing. Draining replicas are left out."""
        route = self._without_draining(route)
        if self._routes.get(route.key) == route:
            return
        self._routes[route.key] = route
        self._record(route.key)

    def drop(self, key: str) -> None:
        """Remove a route; an absent one is success."""
        if self._routes.pop(key, None) is not None:
            self._record(key)

    async def route_away(self, replica_ids: Collection[str]) -> None:
        """Take replicas out of all routes and wait until every connected gateway has applied it."""
        leaving = set(replica_ids)
        self._draining |= leaving
        for route in list(self._routes.values()):
            if any(replica.id in leaving for replica in route.replicas):
                self.put(route)
        wanted = self._revision
        try:
            async with asyncio.timeout(self._ack_timeout_secs):
                async with self._changed:
                    await self._changed.wait_for(
                        lambda: all(done >= wanted for done in self._acknowledged.values())
                    )
        except TimeoutError:
            late = [name for name, done in self._acknowledged.items() if done < wanted]
            logger.warning("gateways did not acknowledge in time", extra={"gateways": late})

    def forget_replica(self, replica_id: str) -> None:
        """A replica has ended; its id never comes back."""
        self._draining.discard(replica_id)

    async def acknowledge(self, gateway_id: str, revision: int) -> None:
        """Record that a connected gateway has applied everything up to `revision`."""
        async with self._changed:
            if gateway_id in self._acknowledged:
                self._acknowledged[gateway_id] = max(self._acknowledged[gateway_id], revision)
            self._changed.notify_all()

    async def watch(self, gateway_id: str, known_revision: int) -> AsyncIterator[RouteStep]:
        """Yield what a gateway needs to know, from `known_revision` on, until it goes."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        self._acknowledged[gateway_id] = 0
        sent = known_revision
        try:
            step = self._since(known_revision)
            while True:
                yield step
                sent = step.revision
                while self._revision == sent:
                    waker.clear()
                    await waker.wait()
                step = self._since(sent)
        finally:
            self._wakers.discard(waker)
            async with self._changed:
                self._acknowledged.pop(gateway_id, None)
                self._changed.notify_all()

    def _since(self, revision: int) -> RouteStep:
        oldest = self._log[0][0] if self._log else self._revision + 1
        is_known = self._first <= revision <= self._revision
        if not is_known or (revision + 1 < oldest and revision != self._revision):
            return RouteStep(
                revision=self._revision,
                is_snapshot=True,
                upserts=tuple(self._routes.values()),
                removed=(),
            )
        keys: dict[str, None] = {}
        for at, key in reversed(self._log):
            if at <= revision:
                break
            keys[key] = None
        return RouteStep(
            revision=self._revision,
            is_snapshot=False,
            upserts=tuple(self._routes[key] for key in keys if key in self._routes),
            removed=tuple(key for key in keys if key not in self._routes),
        )

    def _without_draining(self, route: Route) -> Route:
        kept = tuple(r for r in route.replicas if r.id not in self._draining)
        return route if len(kept) == len(route.replicas) else replace(route, replicas=kept)

    def _record(self, key: str) -> None:
        self._revision += 1
        self._log.append((self._revision, key))
        for waker in self._wakers:
            waker.set()
