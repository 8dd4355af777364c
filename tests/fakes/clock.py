"""Time that passes at once: an event loop that jumps to its next timer when nothing is left to do.

For tests of parts that touch no sockets. `asyncio.sleep(60)` returns immediately, in order, and
every clock that is made of the loop's time agrees with it.
"""

import asyncio
import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


class _Selector(selectors.DefaultSelector):
    """Never waits for a timer: it moves the time forward instead."""

    forward: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        self.forward(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own, which starts at 0."""

    def __init__(self) -> None:
        self._virtual = 0.0
        selector = _Selector()
        selector.forward = self._forward
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual

    def _forward(self, seconds: float) -> None:
        self._virtual += seconds


def loop_now() -> datetime:
    """Return the running loop's time as a date: the `now` of parts under test."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


async def settle(rounds: int = 50) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def virtual_loops(*_: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what `pytest_asyncio_loop_factories` answers."""
    return {"virtual": VirtualLoop}
