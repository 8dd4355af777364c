"""Serves one role's metrics to the operator: `GET /metrics` over HTTP/1.1 on a unix socket.

A socket of the role's own user, apart from every listener that takes requests of others: nobody
else on the machine can read it, and no route of the gateway leads there.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from ignite.telemetry.metrics import CONTENT_TYPE, Registry, render

_HEAD_BYTES = 8 * 1024
_HEAD_SECS = 5.0
_PATH = b"/metrics"


class MetricsServer:
    """One role's socket. A component."""

    name = "metrics"

    def __init__(self, socket: Path, registry: Registry) -> None:
        self._socket = socket
        self._registry = registry

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        self._socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(
                self._serve, str(self._socket), limit=_HEAD_BYTES
            )
        finally:
            os.umask(before)
        try:
            ready()
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            self._socket.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _message("405 Method Not Allowed", b"")
        if words[1].partition(b"?")[0] != _PATH:
            return _message("404 Not Found", b"")
        body = render(self._registry)
        return _message("200 OK", body, is_head=words[0] == b"HEAD")


def _message(status: str, body: bytes, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)
