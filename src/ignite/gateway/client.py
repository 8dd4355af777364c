"""One HTTP/1.1 connection to Envoy's internal listener: a parser, and reading with back-pressure.

A client library costs milliseconds of CPU a request and drops trailers; this is the little that the
dispatcher needs. An exchange has one clock, because a timeout around every wait costs more than the
waits.
"""

import asyncio
from collections import deque
from pathlib import Path
from typing import cast

import httptools

from ignite.ports.dispatch import Headers

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024


class Wire(asyncio.Protocol):
    """A connection and the answer that is coming in on it. Carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._lost = False
        self._paused = False
        self._start(head_only=False)

    @classmethod
    async def open(cls, socket: Path) -> "Wire":
        """Connect. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_unix_connection(cls, str(socket))
        return wire

    @property
    def is_open(self) -> bool:
        """Tell whether the other side is still there."""
        return not self._lost and self._transport is not None

    @property
    def is_reusable(self) -> bool:
        """Tell whether the answer is complete and another request may follow."""
        is_read = self.is_complete and not self._chunks
        return self.is_open and is_read and self._keep_alive and not self._head_only

    def send(self, request: bytes, *, head_only: bool, ends: float) -> None:
        """Begin an exchange; `head_only` says that the answer has no body whatever it announces.

        From the loop's time `ends` on, whoever waits for more of the answer gets TimeoutError.
        """
        assert self._transport is not None
        self._start(head_only=head_only)
        self._clock = asyncio.get_running_loop().call_at(ends, self._expire)
        self._transport.write(request)

    def end(self) -> None:
        """End the exchange, complete or not."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    async def head(self) -> None:
        """Return once status and headers are there. Raises ConnectionError when they never will."""
        while not self.has_head:
            await self._more()

    async def read(self) -> bytes:
        """Return the next part of the body, b"" at its end. Raises ConnectionError when cut."""
        while not self._chunks:
            if self.is_complete:
                return b""
            await self._more()
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._paused and self._buffered < LOW_WATER and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def abort(self) -> None:
        """Drop the connection; Envoy then drops the replica's."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._lost:
            raise ConnectionError("the connection ended before the answer")
        if self._is_late:
            raise TimeoutError
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _start(self, *, head_only: bool) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._keep_alive = False
        self._is_late = False
        self._left = 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self.status = 0
        self.has_head = False
        self.is_complete = False
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []

    def _expire(self) -> None:
        self._is_late = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports by shape only.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left:
            # Nothing but body, whose length is known: the parser would only copy it.
            if len(data) > self._left:
                data = data[: self._left]
                self._keep_alive = False
            self._take(data)
            self.is_complete = not self._left
        else:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError:
                self.abort()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._wake()

    # -- httptools ---------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        field = (name.decode("latin-1").lower(), value.decode("latin-1"))
        (self.trailers if self.has_head else self.headers).append(field)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self.has_head = True
            self._keep_alive = self._parser.should_keep_alive()
            if self._head_only:
                self.is_complete = True
            else:
                self._left = _length(self.status, self.headers)

    def on_body(self, body: bytes) -> None:
        if not self.is_complete:
            self._take(body)

    def _take(self, body: bytes) -> None:
        self._left -= min(self._left, len(body))
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_complete = True
        else:
            # An interim answer; the real one follows.
            self.headers = []


def _length(status: int, headers: Headers | list[tuple[str, str]]) -> int:
    """Return the length of a body that is told beforehand, 0 where it ends in another way."""
    if status in (204, 304) or any(name == "transfer-encoding" for name, _ in headers):
        return 0
    told = [value for name, value in headers if name == "content-length"]
    return int(told[0]) if len(told) == 1 and told[0].isdecimal() else 0


def fields(found: list[tuple[str, str]], drop: frozenset[str]) -> Headers:
    """Return `found` without the names in `drop`."""
    return tuple(field for field in found if field[0] not in drop)
