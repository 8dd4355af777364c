"""Back-pressure for HTTP/2 answers, which the server's own protocol lacks.

uvicorn waits when the socket is full. Over HTTP/2 the socket is not what fills up: bytes beyond the
client's flow-control window are parked inside the protocol engine, without a bound. One slow reader
of one endless answer would then take all memory. So a writer waits here until the window has let
its bytes go. Uses names of uvicorn that are not public: its version is pinned, a test holds it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol
from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol

from ignite.edge.http import Receive, Scope, Send

HIGH_WATER_BYTES = 256 * 1024


class PacedH2Protocol(ZttpH2Protocol):
    """HTTP/2 that tells its writers when the client has taken something."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.progress = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Window updates, resets and the like all come this way."""
        super().data_received(data)
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let writers see that nobody reads any more."""
        super().connection_lost(exc)
        self._tell()

    def handle_request(self, event: Any) -> None:
        """Give the stream's cycle a way back to this connection.

        A head that is the whole request is followed by no further event, which uvicorn forgets
        over HTTP/2: an app that reads the body would wait for ever.
        """
        super().handle_request(event)
        cycle = self.cycles.get(event.stream_id)
        if cycle is None:
            return
        cycle.paced_by = self  # type: ignore[attr-defined]
        if event.end_stream:
            cycle.more_body = False
            cycle.message_event.set()

    def _tell(self) -> None:
        waiting, self.progress = self.progress, asyncio.Event()
        waiting.set()


class EdgeProtocol(AutoZttpProtocol):
    """HTTP/1.1, or HTTP/2 without TLS by prior knowledge; told apart by the first bytes."""

    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        if not http2:
            super()._switch(http2, initial_data)
            return
        protocol = PacedH2Protocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.app_state,
            _loop=self.loop,
        )
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(initial_data)


class Paced:
    """Wraps an ASGI app so that `send` waits while the client takes nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        cycle = getattr(send, "__self__", None)

        async def paced(message: Any) -> None:
            await send(message)
            # Set once the task runs, hence looked up late.
            protocol: PacedH2Protocol | None = getattr(cycle, "paced_by", None)
            while protocol is not None and _is_full(cycle):
                await protocol.progress.wait()

        await self._app(scope, receive, paced)


def _is_full(cycle: Any) -> bool:
    if cycle.disconnected or cycle.response_complete:
        return False
    return (cycle.stream.pending_bytes or 0) > HIGH_WATER_BYTES
