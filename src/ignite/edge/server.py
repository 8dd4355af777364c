"""The edge as a component: uvicorn on a 0600 unix socket, without its signal handlers."""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from ignite.edge.protocol import EdgeProtocol, Paced

logger = logging.getLogger(__name__)

BACKLOG = 1024
# Envoy pools its connections and closes them itself; closing first would race with a request.
KEEP_ALIVE_SECS = 3600


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the process: its supervisor of components decides when to stop."""
        yield


class EdgeServer:
    """Serves an ASGI app on a unix socket. A lifecycle component."""

    name = "edge"

    def __init__(self, app: Any, path: Path, drain_grace_secs: float) -> None:
        self._path = path
        self._config = uvicorn.Config(
            Paced(app),
            http=EdgeProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECS,
            timeout_graceful_shutdown=max(1, round(drain_grace_secs)),
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled, then drain."""
        server = _Server(self._config, ready)
        listener = _listen(self._path)
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve(sockets=[listener]))
                try:
                    await asyncio.shield(serving)
                except asyncio.CancelledError:
                    # Cancelling uvicorn would drop what is under way; asking drains it.
                    server.should_exit = True
                    await serving
                    raise
        finally:
            listener.close()
            self._path.unlink(missing_ok=True)
            logger.info("edge stopped")


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The socket must never be open to others, not even between bind and chmod.
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
