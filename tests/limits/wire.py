"""Requests as bytes and frames, for what no client library would send."""

import json
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

WIRE_SECS = 20.0

INSIDES = (
    *("traceback", "/src/", "<class", "protobuf", "sqlalchemy", "asyncpg", "envoy", "upstream"),
    *("site-packages", "metadata size", "/run/ignite", "/tmp/", "/root/", "python3"),
)
"""Words that no answer of ours may hold: they would tell a stranger how it is inside."""

Headers = Iterable[tuple[str, str]]


@contextmanager
def connect(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection that waits only so long."""
    with socket.create_connection(address, timeout=WIRE_SECS) as wire:
        yield wire


def check_words(body: bytes) -> None:
    """Assert that an answer says nothing of our insides."""
    text = body.decode("latin-1").lower()
    assert not [word for word in INSIDES if word in text], text


def check_error(status: int, body: bytes) -> dict[str, Any]:
    """Assert that a refusal has our form and is the caller's mistake; return it."""
    check_words(body)
    assert 400 <= status < 500 or status == 501, (status, body)
    error: dict[str, Any] = json.loads(body)
    assert error["code"] > 0
    assert error["message"]
    return error


def grpc_frame(message: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """Return a message with gRPC's five bytes before it, which may lie."""
    return struct.pack(">BI", flag, len(message) if size is None else size) + message


class Http2:
    """One HTTP/2 connection in clear that checks nothing of what it sends."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        config = h2.config.H2Configuration(
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._events: dict[int, list[Any]] = {}
        self.is_closed = False
        self._flush()

    def open(self, headers: Headers, *, ends: bool = False) -> int:
        """Send a head; return the stream."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, list(headers), end_stream=ends)
        self._flush()
        return stream

    def exchange(self, headers: Headers, body: bytes = b"") -> "Outcome":
        """Send a request and read until its stream or the connection ends."""
        try:
            stream = self.open(headers, ends=not body)
            self._send(stream, body)
        except (OSError, h2.exceptions.ProtocolError):
            self.is_closed = True
            return Outcome({}, b"", is_reset=True)
        return self.read(stream)

    def read(self, stream: int) -> "Outcome":
        """Read until the stream or the connection ends."""
        while not (self.is_closed or self._is_over(stream)):
            self._pump()
        return _outcome(self._events.get(stream, []), is_closed=self.is_closed)

    def cancel(self, stream: int) -> None:
        """Reset a stream."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def settings(self) -> Any:
        """Return what the server allows."""
        while not self.is_closed and not self._events.get(0):
            self._pump()
        return self._h2.remote_settings

    def _send(self, stream: int, body: bytes) -> None:
        while body and not (self.is_closed or self._is_over(stream)):
            window = self._h2.local_flow_control_window(stream)
            size = min(window, self._h2.max_outbound_frame_size, len(body))
            if size <= 0:
                self._pump()
                continue
            self._h2.send_data(stream, body[:size], end_stream=size == len(body))
            self._flush()
            body = body[size:]

    def _is_over(self, stream: int) -> bool:
        ends = (h2.events.StreamEnded, h2.events.StreamReset)
        return any(isinstance(event, ends) for event in self._events.get(stream, []))

    def _pump(self) -> None:
        try:
            data = self._wire.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.is_closed = True
            return
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.is_closed = True
            self._events.setdefault(getattr(event, "stream_id", 0) or 0, []).append(event)
        self._flush()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._wire.sendall(data)


class Outcome:
    """What came of one request: headers with trailers, a body, or a reset."""

    def __init__(self, headers: dict[str, str], body: bytes, *, is_reset: bool) -> None:
        self.headers = headers
        self.body = body
        self.is_reset = is_reset

    @property
    def status(self) -> int:
        """The HTTP status, 0 without an answer."""
        return int(self.headers.get(":status", "0"))

    @property
    def grpc_status(self) -> int | None:
        """The status of gRPC, None without one."""
        found = self.headers.get("grpc-status")
        return None if found is None else int(found)

    def __repr__(self) -> str:
        return f"Outcome({self.headers}, {self.body[:200]!r}, is_reset={self.is_reset})"


def _outcome(events: Iterable[Any], *, is_closed: bool) -> Outcome:
    headers: dict[str, str] = {}
    body = b""
    is_reset = is_closed
    for event in events:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                headers |= {str(name): str(value) for name, value in event.headers}
            case h2.events.DataReceived():
                body += event.data
            case h2.events.StreamReset():
                is_reset = True
            case _:
                pass
    return Outcome(headers, body, is_reset=is_reset)
