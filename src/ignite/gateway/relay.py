"""One request to one replica as bytes: its head changed, everything behind it passed on untouched.

Both directions run at once and each waits for the slower side, so early answers, chunked bodies,
trailers and upgraded connections need no care of their own. One connection carries one request:
where it ends, the message ended.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ignite.domain.workloads import Endpoint
from ignite.gateway import names
from ignite.gateway.heads import MAX_HEAD_BYTES, BadHead, Head, read_head

CHUNK_BYTES = 64 * 1024
REPLAY_BYTES = 64 * 1024
CONNECT_SECS = 2.0


class NotReached(Exception):
    """The replica took no connection, or said it is full: its handler has not seen the request."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BrokenOff(Exception):
    """The replica broke off before it answered; it may have run the request."""


class Body:
    """The request's body as it comes; its first part can be sent again to another replica."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._kept: list[bytes] = []
        self._size = 0

    @property
    def can_replay(self) -> bool:
        """Tell whether everything read so far is still here."""
        return self._size <= REPLAY_BYTES

    async def send_to(self, writer: asyncio.StreamWriter, on_progress: Callable[[], None]) -> None:
        """Pass the body on until the client's side ends; returns early when the replica's does."""
        try:
            for chunk in self._kept:
                writer.write(chunk)
            await writer.drain()
            while chunk := await self._reader.read(CHUNK_BYTES):
                self._size += len(chunk)
                if self.can_replay:
                    self._kept.append(chunk)
                else:
                    self._kept.clear()
                writer.write(chunk)
                await writer.drain()
                on_progress()
        except OSError:
            # A replica may answer and close before it has read everything.
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The client's side of one request."""

    body: Body
    writer: asyncio.StreamWriter


async def relay(
    endpoint: Endpoint,
    request: Head,
    exchange: Exchange,
    *,
    timeout_secs: float,
    extra: Iterable[tuple[str, str]],
    beside: Iterable[tuple[str, str]] = (),
    on_answer: Callable[[], None] = lambda: None,
) -> None:
    """Carry the request to `endpoint` and its answer back; `extra` goes into the answer's head.

    `beside` goes there too, next to the answer's own fields of those names. `on_answer` is called
    before anything of the answer is out: a caller that has it all may end this at once.

    Raises NotReached, BrokenOff or TimeoutError while nothing was answered.
    """
    reader, writer = await _connect(endpoint)
    sender: asyncio.Task[None] | None = None
    answered = False
    try:
        async with asyncio.timeout(timeout_secs) as clock:
            writer.write(request.encode())
            sender = asyncio.ensure_future(
                exchange.body.send_to(writer, _restart(clock, timeout_secs))
            )
            head = await _answer_head(reader, exchange)
            if head.status == 101:
                clock.reschedule(None)
            elif head.status == 503 and head.get(names.OVERFLOW) and exchange.body.can_replay:
                raise NotReached("All replicas of the app are full.", reason="Overloaded")
            answered = True
            on_answer()
            exchange.writer.write(_ours(head, extra).beside(beside).encode())
            await _pass_on(reader, exchange.writer)
    except TimeoutError:
        if not answered:
            raise
        # Too late for a status: cut the answer short, so that it does not pass for whole.
        exchange.writer.transport.abort()
    finally:
        writer.transport.abort()
        if sender is not None:
            sender.cancel()
            await asyncio.wait([sender])


def _restart(clock: asyncio.Timeout, secs: float) -> Callable[[], None]:
    """Return what begins the app's time anew: it counts from the end of the request."""

    def restart() -> None:
        if clock.when() is not None and not clock.expired():
            clock.reschedule(asyncio.get_running_loop().time() + secs)

    return restart


async def _connect(
    endpoint: Endpoint,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(CONNECT_SECS):
            if endpoint.unix_path:
                return await asyncio.open_unix_connection(endpoint.unix_path, limit=MAX_HEAD_BYTES)
            return await asyncio.open_connection(endpoint.host, endpoint.port, limit=MAX_HEAD_BYTES)
    except (OSError, TimeoutError) as error:
        raise NotReached("The app cannot be reached now.", reason="ReplicaUnreachable") from error


async def _answer_head(reader: asyncio.StreamReader, exchange: Exchange) -> Head:
    """Return the final head; interim ones are passed on as they come."""
    while True:
        try:
            head = await read_head(reader)
        except (BadHead, OSError) as error:
            raise BrokenOff from error
        if head is None:
            raise BrokenOff
        if head.status >= 200 or head.status == 101:
            return head
        exchange.writer.write(head.without(*names.GATEWAY_ONLY).encode())


def _ours(head: Head, extra: Iterable[tuple[str, str]]) -> Head:
    """Return an answer's head without what only the gateway may say."""
    found = head.without(*names.GATEWAY_ONLY)
    if head.status != 101:
        # Envoy closes after the message, whether or not the replica does.
        found = found.without("keep-alive").plus([("connection", "close")])
    return found.plus(extra)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            chunk = await reader.read(CHUNK_BYTES)
        except OSError:
            # Cut short: the client must not take it for the end of the message.
            writer.transport.abort()
            return
        if not chunk:
            break
        writer.write(chunk)
        await writer.drain()
    await writer.drain()
