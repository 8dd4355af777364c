"""HTTP/1.1 and gRPC as the load generator speaks them: just enough to count answers truly."""

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from hpack import Decoder, Encoder

Answered = Callable[[Any, str], None]

CRLF = b"\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
MAX_FRAME = 16_384
REFILL_BYTES = 2**30


class Wire(Protocol):
    """One connection; its slots take one request each at a time."""

    slots: list[Any]

    def close(self) -> None:
        """Close it."""


def is_local(target: str) -> bool:
    """Tell whether a target is on this machine by its form."""
    if target.startswith("unix:"):
        return True
    host, _, port = target.rpartition(":")
    if host == "localhost":
        return port.isdigit()
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback and port.isdigit()
    except ValueError:
        return False


class Http1(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, answered: Answered) -> None:
        self.slots: list[Any] = [self]
        self._answered = answered
        self._buffer = b""
        self._waits = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up the connection."""
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Send a request; a connection that is gone answers at once, with a word."""
        self._waits = True
        if self._transport.is_closing():
            asyncio.get_running_loop().call_later(0.01, self._end, "closed")
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; an answer ends where its head says."""
        self._buffer = buffer = self._buffer + data if self._buffer else data
        found = split_answer(buffer)
        if found is not None:
            status, end = found
            self._buffer = buffer[end:]
            self._end(str(status) if status < 400 else why_of(status, buffer[:end]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Count a request that was under way."""
        self._end("closed")

    def close(self) -> None:
        """Close the connection."""
        self._waits = False
        self._transport.close()

    def _end(self, result: str) -> None:
        if self._waits:
            self._waits = False
            self._answered(self, result)


def why_of(status: int, answer: bytes) -> str:
    """Return the status with the reason word that our gateway puts beside it."""
    _, _, rest = answer.partition(b"\r\nx-ignite-error: ")
    return f"{status} {rest.partition(CRLF)[0].decode('latin-1')}".strip()


def split_answer(buffer: bytes) -> tuple[int, int] | None:
    """Return the status of the first whole answer and where it ends, None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    status = int(head[9:12])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        whole = end + 4 + length
        return (status, whole) if len(buffer) >= whole else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return _chunked_end(buffer, end + 4, status)
    return status, end + 4


def _chunked_end(buffer: bytes, at: int, status: int) -> tuple[int, int] | None:
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(buffer[at:line].split(b";")[0], 16)
        if size == 0:
            # Trailers, if any, end with an empty line as the last chunk does.
            end = buffer.find(b"\r\n\r\n", line)
            return None if end < 0 else (status, end + 4)
        at = line + 2 + size + 2


class Stream:
    """A slot of a gRPC connection."""

    __slots__ = ("number", "wire")

    def __init__(self, wire: "Grpc") -> None:
        self.wire = wire
        self.number = 0

    def send(self, request: bytes) -> None:
        """Start a call with one message."""
        self.wire.start(self, request)


class Grpc(asyncio.Protocol):
    """One HTTP/2 connection with calls of one method, of messages that fit a stream's window.

    Windows towards us are wide open. The table of header compression is off in their direction, so
    that equal blocks of trailers mean the same and need decoding once.
    """

    def __init__(self, answered: Answered, method: str, authorization: str, slots: int) -> None:
        self.slots: list[Any] = [Stream(self) for _ in range(slots)]
        self._answered = answered
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "127.0.0.1"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *([("authorization", authorization)] if authorization else []),
        ]
        self._encoder = Encoder()
        self._block = b""
        self._statuses: dict[bytes, str] = {}
        self._streams: dict[int, Stream] = {}
        self._blocks: dict[int, tuple[bytes, bool]] = {}
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._waiting: deque[bytes] = deque()
        self._received = 0
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the windows towards us."""
        self._transport = transport
        settings = b"\x00\x01\x00\x00\x00\x00" + b"\x00\x04" + MAX_WINDOW.to_bytes(4, "big")
        window = (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
        self._transport.write(
            PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW, 0, 0, window)
        )

    def start(self, stream: Stream, request: bytes) -> None:
        """Send a call's headers and its message."""
        if self._transport.is_closing():
            stream.number = -1 - id(stream)
            self._streams[stream.number] = stream
            asyncio.get_running_loop().call_later(0.01, self._end, stream.number, "closed")
            return
        stream.number, self._next = self._next, self._next + 2
        self._streams[stream.number] = stream
        block = self._block
        if not block:
            # The first block fills the table at the other side; all others refer to it.
            block = self._encoder.encode(self._headers)
            if stream.number > 1:
                self._block = block
        message = b"\0" + len(request).to_bytes(4, "big") + request
        if len(message) > DEFAULT_WINDOW:
            raise ValueError("a message has to fit the window of a new stream")
        self._transport.write(frame(HEADERS, END_HEADERS, stream.number, block))
        for at in range(0, len(message), MAX_FRAME):
            piece = message[at : at + MAX_FRAME]
            is_last = at + MAX_FRAME >= len(message)
            self._waiting.append(frame(DATA, END_STREAM if is_last else 0, stream.number, piece))
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take in frames."""
        buffer = self._buffer + data if self._buffer else data
        at, size = 0, len(buffer)
        while size - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if size - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._frame(kind, flags, number, buffer[at + 9 : at + 9 + length])
            at += 9 + length
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Count what was under way."""
        for number in list(self._streams):
            self._end(number, "closed")

    def close(self) -> None:
        """Close the connection."""
        self._streams.clear()
        self._transport.close()

    def _frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == DATA:
            self._received += len(body)
            if self._received > REFILL_BYTES:
                refill, self._received = self._received.to_bytes(4, "big"), 0
                self._transport.write(frame(WINDOW, 0, 0, refill))
        elif kind in (HEADERS, CONTINUATION):
            self._on_headers(kind, flags, number, body)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, body))
        elif kind == WINDOW and number == 0:
            self._window += int.from_bytes(body, "big")
            self._flush()
        elif kind == RST:
            self._end(number, "reset")
        elif kind == GOAWAY:
            self._transport.close()

    def _on_headers(self, kind: int, flags: int, number: int, body: bytes) -> None:
        before, is_last = self._blocks.pop(number, (b"", False))
        block, is_last = before + body, is_last or bool(kind == HEADERS and flags & END_STREAM)
        if not flags & END_HEADERS:
            self._blocks[number] = (block, is_last)
        elif is_last:
            self._end(number, self._status(block))

    def _status(self, block: bytes) -> str:
        known = self._statuses.get(block)
        if known is None:
            found: dict[str, str] = dict(Decoder().decode(block))  # type: ignore[arg-type]
            known = str(found.get("grpc-status", "none"))
            if len(self._statuses) < 1000:
                self._statuses[block] = known
        return known

    def _flush(self) -> None:
        while self._waiting and len(self._waiting[0]) - 9 <= self._window:
            piece = self._waiting.popleft()
            self._window -= len(piece) - 9
            self._transport.write(piece)

    def _end(self, number: int, result: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._answered(stream, result)


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    head = len(body).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big")
    return head + body
