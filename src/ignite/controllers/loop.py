"""The one reconcile loop: keys in, one at a time each, many at once, tried again when they fail."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from ignite.domain.errors import TemporaryError, Unavailable

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 30.0


class ReconcileLoop(Generic[Key]):
    """Calls `reconcile(key)` for every hinted key, never twice at once for the same one.

    A hint during the work leads to one more round. A failure is tried again with back-off, or at
    once when there is a new hint; the loop itself never ends on one.
    """

    def __init__(
        self, name: str, reconcile: Callable[[Key], Awaitable[None]], *, concurrency: int
    ) -> None:
        self._name = name
        self._reconcile = reconcile
        self._slots = asyncio.Semaphore(concurrency)
        self._wanted: dict[Key, None] = {}
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._hinted = asyncio.Event()

    def hint(self, key: Key) -> None:
        """Ask for a round of `key`."""
        self._wanted[key] = None
        self._hinted.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._hinted.wait()
                self._hinted.clear()
                for key in [key for key in self._wanted if key not in self._working]:
                    await self._slots.acquire()
                    del self._wanted[key]
                    self._working.add(key)
                    if (timer := self._timers.pop(key, None)) is not None:
                        timer.cancel()
                    group.create_task(self._work(key))

    async def _work(self, key: Key) -> None:
        try:
            await self._reconcile(key)
            self._failures.pop(key, None)
        except (TemporaryError, Unavailable) as error:
            logger.warning(
                "will try again", extra={"loop": self._name, "key": str(key), "error": str(error)}
            )
            self._again(key)
        except Exception:  # the loop outlives a bug in one key
            logger.exception("reconcile failed", extra={"loop": self._name, "key": str(key)})
            self._again(key)
        finally:
            self._slots.release()
            self._working.discard(key)
            if key in self._wanted:
                self._hinted.set()

    def _again(self, key: Key) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay: float = min(_FIRST_DELAY * (1 << min(failures - 1, 12)), _LONGEST_DELAY)
        self._timers[key] = asyncio.get_running_loop().call_later(
            delay * random.uniform(0.8, 1.2),  # noqa: S311 - jitter
            self.hint,
            key,
        )
