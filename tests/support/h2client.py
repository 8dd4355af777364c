"""A small HTTP/2 client without TLS over a unix socket, for tests of the edge.

Takes data only when told, so that tests can be slow readers.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events


@dataclass
class Response:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class H2Client:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self.take = True

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        trailers: bool = True,
    ) -> Response:
        """Send and read to the end of the stream."""
        stream = await self.send(method, path, body, headers, trailers=trailers)
        return await self.read(stream)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        trailers: bool = True,
        whole: bool = True,
    ) -> int:
        stream = self._h2.get_next_available_stream_id()
        head = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "edge"),
            *([("te", "trailers")] if trailers else []),
            *headers,
        ]
        self._h2.send_headers(stream, head, end_stream=not body)
        while body:
            size = min(
                self._h2.local_flow_control_window(stream),
                self._h2.max_outbound_frame_size,
                len(body),
            )
            if not size:
                await self._flush()
                self._events(await self._reader.read(65536))
                continue
            self._h2.send_data(stream, body[:size], end_stream=whole and size == len(body))
            body = body[size:]
        await self._flush()
        return stream

    async def read(self, stream: int, *, until_bytes: int | None = None) -> Response:
        """Read until the stream ends, or until so many bytes of body have come."""
        response = self._responses.setdefault(stream, Response())
        async with asyncio.timeout(20):
            while not (response.ended or response.reset):
                if until_bytes is not None and len(response.body) >= until_bytes:
                    break
                data = await self._reader.read(65536)
                if not data:
                    response.reset = True
                    break
                self._events(data)
                await self._flush()
        return response

    async def cancel(self, stream: int) -> None:
        self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        await self._flush()

    _responses: dict[int, Response]

    def _events(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            response = self._responses.setdefault(getattr(event, "stream_id", 0) or 0, Response())
            match event:
                case h2.events.ResponseReceived():
                    response.headers = _texts(event.headers)
                case h2.events.TrailersReceived():
                    response.trailers = _texts(event.headers)
                case h2.events.DataReceived():
                    response.body += event.data
                    if self.take:
                        self._h2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                case h2.events.StreamEnded():
                    response.ended = True
                case h2.events.StreamReset():
                    response.reset = True
                case _:
                    pass

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()


def _texts(headers: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}


@asynccontextmanager
async def h2_client(path: Path) -> AsyncIterator[H2Client]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    client = H2Client(reader, writer)
    client._responses = {}
    try:
        yield client
    finally:
        writer.close()
