"""The board of routes: what all gateways should know, and what they have acknowledged."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, replace

from ignite.domain.routes import Route

logger = logging.getLogger(__name__)

_LOG_LENGTH = 20_000
_EARLIER = "(before this process)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One step for a gateway: everything (`is_snapshot`), or what changed since the last one."""

    revision: int
    is_snapshot: bool
    upserts: tuple[Route, ...]
    removed: tuple[str, ...]


@dataclass(slots=True)
class _Gateway:
    acknowledged: int = 0
    streams: int = 0


class RouteBoard:
    """Keeps routes by key under a growing revision, and tells gateways.

    Revisions start at the process' start in microseconds, so that one of an earlier process is
    never taken for ours. A gateway that has gone may still route by what it knew: for a while it is
    waited for, as are those that may have been connected to an earlier process.
    """

    def __init__(self, *, ack_timeout_secs: float = 5.0) -> None:
        self._ack_timeout_secs = ack_timeout_secs
        self._revision = time.time_ns() // 1000
        self._first = self._revision
        self._routes: dict[str, Route] = {}
        self._log: deque[tuple[int, str]] = deque(maxlen=_LOG_LENGTH)
        self._opened = asyncio.Event()
        self._gateways: dict[str, _Gateway] = {}
        self._wakers: set[asyncio.Event] = set()

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._revision

    def open(self) -> None:
        """Say that every route is there: before that no gateway is told that one is not."""
        if not self._opened.is_set():
            self._opened.set()
            self._gateways[_EARLIER] = _Gateway()
            self._expire_later(_EARLIER)

    def get(self, key: str) -> Route | None:
        """Return the route of a Workload, or None."""
        return self._routes.get(key)

    def put(self, route: Route) -> None:
        """Add or replace a route; an equal one changes nothing."""
        if self._routes.get(route.key) != route:
            self._routes[route.key] = route
            self._record(route.key)

    def drop(self, key: str) -> None:
        """Remove a route; an absent one is success."""
        if self._routes.pop(key, None) is not None:
            self._record(key)

    async def route_away(self, replica_ids: Collection[str]) -> None:
        """Take replicas out of all routes and wait until every gateway has applied it.

        Whoever puts routes leaves these replicas out from now on.
        """
        leaving = set(replica_ids)
        for route in list(self._routes.values()):
            kept = tuple(replica for replica in route.replicas if replica.id not in leaving)
            if len(kept) < len(route.replicas):
                self.put(replace(route, replicas=kept))
        await self.applied()

    async def applied(self) -> None:
        """Return once every gateway has applied all that is on the board now; bounded."""
        wanted = self._revision
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            async with asyncio.timeout(self._ack_timeout_secs):
                while self._late(wanted):
                    waker.clear()
                    await waker.wait()
        except TimeoutError:
            logger.warning(
                "gateways did not acknowledge in time", extra={"gateways": self._late(wanted)}
            )
        finally:
            self._wakers.discard(waker)

    def acknowledge(self, gateway_id: str, revision: int) -> None:
        """Record that a gateway has applied everything up to `revision`."""
        gateway = self._gateways.get(gateway_id)
        # A revision of another process says nothing about ours.
        if gateway is not None and gateway.acknowledged < revision <= self._revision:
            gateway.acknowledged = revision
            self._wake()

    async def watch(self, gateway_id: str, known_revision: int) -> AsyncGenerator[RouteStep, None]:
        """Yield what a gateway needs to know, from `known_revision` on, until it goes."""
        await self._opened.wait()
        waker = asyncio.Event()
        self._wakers.add(waker)
        gateway = self._gateways.setdefault(gateway_id, _Gateway())
        gateway.streams += 1
        # It may have been restarted, with a table older than what it had acknowledged.
        gateway.acknowledged = 0
        try:
            step = self._since(known_revision)
            while True:
                yield step
                while self._revision == step.revision:
                    waker.clear()
                    await waker.wait()
                step = self._since(step.revision)
        finally:
            self._wakers.discard(waker)
            gateway.streams -= 1
            if not gateway.streams:
                self._expire_later(gateway_id)

    def _late(self, wanted: int) -> list[str]:
        return [
            gateway_id
            for gateway_id, gateway in self._gateways.items()
            if gateway.acknowledged < wanted
        ]

    def _expire_later(self, gateway_id: str) -> None:
        asyncio.get_running_loop().call_later(self._ack_timeout_secs, self._expire, gateway_id)

    def _expire(self, gateway_id: str) -> None:
        gateway = self._gateways.get(gateway_id)
        if gateway is not None and not gateway.streams:
            del self._gateways[gateway_id]
            self._wake()

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

    def _record(self, key: str) -> None:
        self._revision += 1
        self._log.append((self._revision, key))
        self._wake()

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()
