"""One connection of the gateway: requests off the wire one after another, answers onto it.

Never closes an idle connection: the gateway may be sending its next request at that moment.
"""

from __future__ import annotations

import asyncio

from .requests import Request
from .results import platform_error
from .wire import MAX_HEAD_BYTES, REASONS, Body, Head, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .replica import Replica

HIGH_WATER_BYTES = 64 * 1024
SPOOL_BYTES = 256 * 1024  # a body beyond it is read only once its request has a slot
HEAD_TIMEOUT_SECS = 60.0
LINGER_SECS = 2.0

# All connections read into this, one at a time. What asyncio makes for a read otherwise is so large
# that malloc maps it from the kernel and gives it back at every request: half as much CPU again.
READ_BYTES = 256 * 1024
_arrived = memoryview(bytearray(READ_BYTES))


class Connection(asyncio.BufferedProtocol):
    """Reads a request, hands it to the replica, writes what comes back.

    `_head` is set from the end of a request's head to the end of its answer, `_body` while its body
    comes in, `request` until it is answered. After an early answer the rest of a body is discarded.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._buffer = bytearray()
        self._head: Head | None = None
        self._body: Body | None = None
        self._request: Request | None = None
        self._lingers = False
        self._reading = True
        self._writable = True
        self._chunked = False
        self._closes = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    # ---- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a connection."""
        self._transport = transport  # type: ignore[assignment]  # of a stream server, so it is
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._replica.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio calls it
        """Return where to read into; `buffer_updated` follows before anything else is read."""
        return _arrived

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes in. A client that stops sending (EOF) is gone, as it is for every proxy."""
        if self._lingers:
            return
        self._buffer += _arrived[:nbytes]
        self._advance()
        if len(self._buffer) > HIGH_WATER_BYTES and self._is_held:
            self._read(False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it
        """Let go of the request under way."""
        self._stop_timer()
        self._leave()
        self._replica.forget(self)

    def pause_writing(self) -> None:
        """Hold the answer back: the client is slow."""
        self._writable = False
        if self._request is not None:
            self._request.pause(True)

    def resume_writing(self) -> None:
        """Go on with the answer, or with the next request."""
        self._writable = True
        if self._request is not None:
            self._request.pause(False)
        elif not self._lingers:
            self._read(True)
            self._advance()

    # ---- reading ---------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Tell whether no request is on its way in or out."""
        return self._head is None and not self._buffer and not self._lingers

    @property
    def is_writable(self) -> bool:
        """Tell whether the client keeps up."""
        return self._writable

    def close(self) -> None:
        """Close once everything is written."""
        self._transport.close()

    def proceed(self) -> None:
        """Go on with a body that had to wait for its slot."""
        self._start_timer(self._replica.config.timeout_secs)
        self._read(True)

    @property
    def _is_held(self) -> bool:
        return self._body is None and (self._head is not None or not self._writable)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _advance(self) -> None:
        if self._transport.is_closing():
            return
        try:
            if self._head is None and self._writable:
                self._read_head()
            if self._body is not None:
                self._read_body(self._body)
        except Refused as refused:
            self._refuse(refused)

    def _read_head(self) -> None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 4)
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise Refused(431, f"request head over {MAX_HEAD_BYTES} bytes")
            if buffer and self._timer is None:
                self._start_timer(HEAD_TIMEOUT_SECS)
            return
        self._stop_timer()
        self._head = head = Head(bytes(buffer[:end]))
        del buffer[: end + 4]
        self._body = Body(head.length, self._replica.config.max_body_bytes)
        self._request = Request(self._replica, self, head)
        if head.length:
            self._start_timer(self._replica.config.timeout_secs)
            if head.expects and not buffer:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, body: Body) -> None:
        complete = body.feed(self._buffer)
        request = self._request
        if request is None:
            body.forget()
        if complete:
            self._stop_timer()
            self._body = None
            if request is None:
                self._next()
            else:
                request.complete(bytes(body.data))
        elif request is not None and len(body.data) > SPOOL_BYTES and not request.asked:
            request.ask()
            if request.waits:
                self._stop_timer()
                self._read(False)

    def _refuse(self, refused: Refused) -> None:
        """Answer a broken request and end the connection: its end cannot be found any more."""
        self._leave()
        self._closes = True
        self._write_whole(refused.status, *platform_error(refused.text, "BadRequest"))
        self._linger()

    def _leave(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.leave()

    # ---- writing ---------------------------------------------------------------------------------

    def answer(self, status: int, data: bytes, kind: str, extra: str = "") -> None:
        """Write a whole answer to the request under way."""
        self._decide()
        self._write_whole(status, data, kind, extra)
        self._end()

    def begin_stream(self, kind: str) -> None:
        """Write the head of an answer that comes in chunks."""
        self._decide()
        self._chunked = self._head is not None and not self._head.http10
        framing = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        self._transport.write(self._head_bytes(200, kind, framing))

    def chunk(self, data: bytes) -> None:
        """Write one chunk; an empty one would end the stream and is left out."""
        if not data or self._is_silent:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(data)

    def end_stream(self) -> None:
        """End the stream well."""
        if self._chunked and not self._is_silent:
            self._transport.write(b"0\r\n\r\n")
        self._end()

    def abort(self) -> None:
        """Break off, so that the reader knows the answer is not whole."""
        self._request = None
        self._transport.abort()

    @property
    def _is_silent(self) -> bool:
        return self._head is not None and self._head.method == b"HEAD"

    def _decide(self) -> None:
        """Settle whether the connection ends with this answer, before its head says so."""
        keeps = self._head is not None and self._head.keep_alive
        self._closes = not keeps or self._replica.is_ending

    def _write_whole(self, status: int, data: bytes, kind: str, extra: str = "") -> None:
        head = self._head_bytes(status, kind, f"Content-Length: {len(data)}\r\n{extra}")
        if self._is_silent:
            data = b""
        if len(data) > HIGH_WATER_BYTES:
            self._transport.write(head)
            self._transport.write(data)
        else:
            self._transport.write(head + data)

    def _head_bytes(self, status: int, kind: str, extra: str) -> bytes:
        if self._closes:
            extra += "Connection: close\r\n"
        line = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\n"
        return f"{line}{extra}\r\n".encode("latin-1")

    def _end(self) -> None:
        """After an answer: the next request, or the end of the connection."""
        self._request = None
        if self._body is None:
            self._next()
        elif self._closes:
            self._linger()
        else:
            self._read(True)
        self._replica.check_end()

    def _next(self) -> None:
        self._head = None
        if self._closes:
            self._transport.close()
        elif self._writable:
            self._read(True)
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._advance)

    def _linger(self) -> None:
        """Close once the other side has read the answer: closing on unread bytes may lose it."""
        self._lingers = True
        self._head = self._body = None
        self._buffer.clear()
        self._transport.write_eof()
        self._read(True)
        self._start_timer(LINGER_SECS)

    # ---- time ------------------------------------------------------------------------------------

    def _start_timer(self, secs: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(secs, self._on_time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        if self._lingers or (self._head is not None and self._request is None):
            self._transport.close()
        else:
            self._refuse(Refused(408, "the request did not arrive in time"))
