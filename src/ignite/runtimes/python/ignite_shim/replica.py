"""The replica: slots, the queue before them, health, and how it comes to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque

from .results import TEXT
from .threads import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable
    from typing import Any

    from .config import Config
    from .connections import Connection
    from .requests import Request
    from .wire import Head

EXIT_DRAINED = 0
EXIT_TAINTED = 5

TAINTED_QUIET_SECS = 1.0  # time for the gateway to see that health has changed
TAINTED_SERVE_SECS = 30.0
STALL_SECS = 5.0

logger = logging.getLogger("ignite")


class Replica:
    """Decides who runs, who waits, who is turned away, and when it is over."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        handler: Callable[[bytes, dict[str, str]], Any],
        awaits: bool,
    ) -> None:
        self.config = config
        self.loop = loop
        self.context = context
        self.handler = handler
        self.awaits = awaits
        self.pool = Pool()
        self.watchdog = Watchdog(loop, config.timeout_secs + STALL_SECS)
        self.connections: set[Connection] = set()
        self.closed = asyncio.Event()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._active = 0
        self._waiting: deque[Request] = deque()
        self._stuck: set[Request] = set()
        self._exit_code: int | None = None
        self._may_end = False
        self._refuses = False

    def forget(self, connection: Connection) -> None:
        """Lose a connection."""
        self.connections.discard(connection)
        if self._exit_code is not None and not self.connections:
            self.closed.set()
        self.check_end()

    # ---- slots -----------------------------------------------------------------------------------

    def admit(self, request: Request) -> None:
        """Grant a slot, queue or refuse, at once."""
        if self._refuses:
            request.refused()
        elif self._active < self.config.max_concurrency:
            self._active += 1
            request.granted()
        elif len(self._waiting) < self.config.queue_length:
            request.waits = True
            self._waiting.append(request)
        else:
            request.refused()

    def withdraw(self, request: Request) -> None:
        """Take a request out of the queue."""
        self._waiting.remove(request)
        self.check_end()

    def release(self, request: Request) -> None:
        """Hand the slot to whoever waits longest."""
        self._stuck.discard(request)
        if self._waiting:
            self._waiting.popleft().granted()
        else:
            self._active -= 1
            self.check_end()

    # ---- health ----------------------------------------------------------------------------------

    def platform_answer(self, head: Head) -> tuple[int, bytes, str] | None:
        """Return the answer to what is asked of the platform, None for what is the app's."""
        if head.method not in (b"GET", b"HEAD"):
            return None
        if head.path == self.config.health_path:
            return (503, b"draining\n", TEXT) if self.is_ending else (200, b"ok\n", TEXT)
        return (200, b"ok\n", TEXT) if head.path == b"/" else None

    @property
    def is_ending(self) -> bool:
        """Tell whether the replica only finishes what it has."""
        return self._exit_code is not None

    # ---- the end ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish everything under way, then end well."""
        self._exit_code = EXIT_DRAINED
        self._may_end = True
        self.check_end()

    def taint(self, request: Request) -> None:
        """Give up on a thread that will not end: finish the rest, then ask to be replaced."""
        self._stuck.add(request)
        if not self.is_ending:
            logger.error("a handler is stuck past its deadline; this replica ends when idle")
            self._exit_code = EXIT_TAINTED
            self.loop.call_later(TAINTED_QUIET_SECS, self._end_when_idle)
            self.loop.call_later(TAINTED_SERVE_SECS, self._refuse)
        self.check_end()

    def check_end(self) -> None:
        """End once nothing is under way but what is stuck."""
        if not self._may_end or self.ended.done() or self._exit_code is None:
            return
        busy = self._active > len(self._stuck) or self._waiting
        if not busy and all(connection.is_idle for connection in self.connections):
            self.ended.set_result(self._exit_code)

    def reopen(self) -> None:
        """Look again for the end: something came in at the last moment."""
        if self.ended.done():
            self.ended = self.loop.create_future()
        self.check_end()

    def _end_when_idle(self) -> None:
        self._may_end = True
        self.check_end()

    def _refuse(self) -> None:
        self._refuses = True


class Watchdog:
    """Ends the process when a handler blocks the event loop itself, where no deadline can act."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_secs: float) -> None:
        self._loop = loop
        self._limit_secs = limit_secs
        self._armed = 0
        self._watching = threading.Event()
        self._thread: threading.Thread | None = None
        self._next: asyncio.TimerHandle | None = None
        self._beat_at = 0.0

    def arm(self) -> None:
        """Watch while a handler runs on the loop."""
        self._armed += 1
        if self._armed > 1:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        self._beat()
        self._watching.set()

    def disarm(self) -> None:
        """Stop watching with the last of them: an idle replica does not wake up."""
        self._armed -= 1
        if not self._armed:
            self._watching.clear()
            if self._next is not None:
                self._next.cancel()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._next = self._loop.call_later(1.0, self._beat)

    def _watch(self) -> None:
        late = 0
        while True:
            self._watching.wait()
            time.sleep(1.0)
            # Twice in a row: a machine that was suspended gets a second to beat again.
            stale = time.monotonic() - self._beat_at > self._limit_secs
            late = late + 1 if stale and self._watching.is_set() else 0
            if late > 1:
                sys.stderr.write("ignite: a handler blocks the event loop; the replica ends\n")
                sys.stderr.flush()
                os._exit(EXIT_TAINTED)
