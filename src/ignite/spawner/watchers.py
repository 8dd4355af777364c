"""Who wants to know of changes. A slow watcher gets the newest state of each replica, not every
one."""

import asyncio
from collections.abc import AsyncIterator, Callable

from ignite.spawner.specs import ReplicaStatus

Changes = tuple[bool, tuple[ReplicaStatus, ...]]


class Watchers:
    """Tells every watcher what changed since it last looked."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, dict[str, ReplicaStatus]] = {}

    def tell(self, status: ReplicaStatus) -> None:
        """Note a change for everyone."""
        for event, changed in self._waiting.items():
            changed[status.id] = status
            event.set()

    async def watch(
        self, everything: Callable[[], tuple[ReplicaStatus, ...]]
    ) -> AsyncIterator[Changes]:
        """Yield (True, `everything()`), then (False, what changed) for ever."""
        event = asyncio.Event()
        changed = self._waiting[event] = {}
        try:
            yield True, everything()
            while True:
                await event.wait()
                event.clear()
                batch = tuple(changed.values())
                changed.clear()
                yield False, batch
        finally:
            del self._waiting[event]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after every change."""
        event = asyncio.Event()
        self._waiting[event] = {}
        try:
            while not condition():
                await event.wait()
                event.clear()
        finally:
            del self._waiting[event]
