"""The public door: when the server is asked to stop, it shuts first and lets those inside finish.

Envoy itself ends at once when it is told to end, and takes every request under way with it. So it
is told to refuse new connections and to announce the end on the old ones, and is left alone until
it carries nothing any more, or the grace is over. The internal listener stays open meanwhile: calls
that the API has accepted still need it.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Protocol

from ignite.domain.errors import Unavailable

logger = logging.getLogger(__name__)

_ACTIVE = "/stats?format=json&filter=^http%5C..*%5C.downstream_rq_active$"
_LOOK_SECS = 0.05


class Admin(Protocol):
    """Envoy's admin interface."""

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body. Raises Unavailable."""

    async def post(self, path: str) -> tuple[int, bytes]:
        """Ask for a change. Raises Unavailable."""


class PublicDoor:
    """Stands open until cancelled, then drains. A Component."""

    name = "public door"

    def __init__(self, admin: Admin, *, grace_secs: float) -> None:
        self._admin = admin
        self._grace_secs = grace_secs

    async def run(self, ready: Callable[[], None]) -> None:
        """Wait for the stop, then shut."""
        try:
            ready()
            await asyncio.Event().wait()
        finally:
            await self._shut()

    async def _shut(self) -> None:
        try:
            async with asyncio.timeout(self._grace_secs):
                await self._admin.post("/healthcheck/fail")
                await self._admin.post("/drain_listeners?inboundonly")
                while await self._carries():  # noqa: ASYNC110 - another process counts them
                    await asyncio.sleep(_LOOK_SECS)
        except TimeoutError:
            logger.warning("requests are cut off", extra={"grace_secs": self._grace_secs})
        except Unavailable as error:
            logger.warning("the public door cannot be shut", extra={"error": str(error)})

    async def _carries(self) -> bool:
        status, body = await self._admin.get(_ACTIVE)
        if status != 200:
            raise Unavailable(f"Envoy's admin interface says {status}")
        counts = {stat["name"]: stat.get("value", 0) for stat in json.loads(body)["stats"]}
        return any(count for name, count in counts.items() if not name.startswith("http.admin."))
