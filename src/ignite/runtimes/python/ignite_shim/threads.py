"""Threads for handlers that block, and the way of their chunks back to the event loop."""

from __future__ import annotations

import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HIGH_WATER_BYTES = 64 * 1024


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


class Pool:
    """Threads for handlers that block: made when needed, kept, never more than there are slots."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread; its end is told by `finished`."""
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._work, name="handler", daemon=True).start()
        self._jobs.put(job)

    def finished(self) -> None:
        """Count a thread as idle again."""
        self._idle += 1

    def _work(self) -> None:
        while True:
            self._jobs.get()()


class ThreadStream:
    """The way of chunks from a thread to the connection; `send` blocks while the client is slow."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, write: Callable[[bytes, str], None], paused: bool
    ) -> None:
        self._loop = loop
        self._write = write
        self._change = threading.Condition()
        self._items: list[tuple[bytes, str]] = []
        self._size = 0
        self._paused = paused
        self._closed = False

    def send(self, item: tuple[bytes, str]) -> None:
        """Hand one chunk over, in a thread; raises ClientGone once nobody reads."""
        with self._change:
            while (self._paused or self._size >= HIGH_WATER_BYTES) and not self._closed:
                self._change.wait()
            if self._closed:
                raise ClientGone
            if not self._items:
                self._loop.call_soon_threadsafe(self._flush)
            self._items.append(item)
            self._size += len(item[0]) + 1

    def pause(self, paused: bool) -> None:
        """Say, on the loop, whether the client is slow."""
        with self._change:
            self._paused = paused
            self._change.notify_all()

    def close(self) -> None:
        """Let go of the thread: the next `send` raises."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _flush(self) -> None:
        with self._change:
            items, self._items, self._size = self._items, [], 0
            self._change.notify_all()
        for data, kind in items:
            self._write(data, kind)
