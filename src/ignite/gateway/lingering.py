"""Clusters of apps that have just gone cold, kept for requests that are between two tries.

Envoy answers 503 by itself when a cluster goes while a request waits for its next try. So a cluster
outlives its last replica by more than the longest time to the last try; the activator stands in
it alone then, and holds what comes.
"""

import asyncio
import time
from collections.abc import Callable

from ignite.domain.routes import Route
from ignite.gateway.discovery import DiscoveryServer
from ignite.gateway.holding import Holding
from ignite.gateway.table import RouteTable
from ignite.gateway.xds import Compiler

LINGER_SECS = 15.0
"""Five tries, each of which may take two seconds to find that nobody takes the connection."""


class Lingering:
    """Remembers which routes were warm until lately."""

    def __init__(
        self, *, secs: float = LINGER_SECS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secs = secs
        self._clock = clock
        self._warm: dict[str, Route] = {}
        self._gone: dict[str, tuple[float, Route]] = {}

    def after(self, table: RouteTable) -> tuple[Route, ...]:
        """Return, as they last were, the routes that `table` does not say to be warm any more."""
        now = self._clock()
        warm = {claim.route.key: claim.route for one in table.warm.values() for claim in one}
        for key in self._warm.keys() - warm.keys():
            self._gone[key] = (now + self._secs, self._warm[key])
        self._warm = warm
        self._gone = {
            key: (ends, route)
            for key, (ends, route) in self._gone.items()
            if ends > now and key not in warm
        }
        return tuple(route for _, route in self._gone.values())


class Publisher:
    """Puts a table in force; comes back to remove what has lingered long enough."""

    def __init__(self, compiler: Compiler, discovery: DiscoveryServer, holding: Holding) -> None:
        self._compiler = compiler
        self._discovery = discovery
        self._holding = holding
        self._lingering = Lingering()
        self._lingering.after(holding.table)
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, fresh: RouteTable) -> int:
        """Make `fresh` the table of all; returns the number to wait for at the data plane."""
        # The activator first: what Envoy is about to send there must be known.
        self._holding.swap(fresh)
        kept = self._lingering.after(fresh)
        if kept and self._timer is None:
            # A little later than the first of them ends.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LINGER_SECS + 0.1, self._sweep)
        return self._discovery.publish(self._compiler.snapshot(fresh, lingering=kept))

    def trust(self, keys: str) -> None:
        """Have Envoy forget which tokens were good; see `Compiler.trust`."""
        self._compiler.trust(keys)
        self.publish(self._holding.table)

    def _sweep(self) -> None:
        self._timer = None
        self.publish(self._holding.table)
