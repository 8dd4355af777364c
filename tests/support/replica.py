"""A replica as a gateway sees it, and a client of one request: HTTP/1.1 by h11."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

from ignite.domain.workloads import Endpoint


@dataclass
class Seen:
    """One request as a replica got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    connection: int

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)


@dataclass
class Answered:
    """What a replica answers."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | list[bytes] = b"ok"
    trailers: list[tuple[str, str]] = field(default_factory=list)


async def ok(_seen: Seen) -> Answered:
    return Answered()


class FakeReplica:
    """An HTTP/1.1 server on a unix socket (or a loopback port), as a replica is."""

    def __init__(
        self, path: Path, answer: Callable[[Seen], Any] = ok, *, tcp: bool = False
    ) -> None:
        self.path = path
        self.answer = answer
        self.tcp = tcp
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.disconnects = 0
        self.connections = 0
        self.endpoint = Endpoint(unix_path=str(path))
        self.changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "FakeReplica":
        if self.tcp:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            port = self._server.sockets[0].getsockname()[1]
            self.endpoint = Endpoint(host="127.0.0.1", port=port)
        else:
            self._server = await asyncio.start_unix_server(
                self._accept, str(self.path), backlog=4096
            )
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.path.unlink(missing_ok=True)

    def is_idle(self) -> bool:
        return self.in_flight == 0

    def has_seen(self, number: int) -> bool:
        return len(self.seen) >= number

    async def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout), self.changed:
            await self.changed.wait_for(condition)

    async def _note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, h11.ProtocolError):
            try:
                wire = h11.Connection(our_role=h11.SERVER)
                while await self._one(wire, reader, writer, number):
                    wire.start_next_cycle()
            finally:
                writer.close()

    async def _one(
        self,
        wire: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> bool:
        request, body, trailers = None, b"", []
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                wire.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = [(n.decode(), v.decode()) for n, v in event.headers]
                break
            else:
                return False
        assert request is not None
        seen = Seen(
            method=request.method.decode(),
            target=request.target.decode(),
            headers=[(n.decode(), v.decode()) for n, v in request.headers],
            body=body,
            trailers=trailers,
            connection=number,
        )
        self.seen.append(seen)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self._note()
        working = asyncio.ensure_future(self._work(seen, wire, writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.disconnects += 1
                working.cancel()
                return False
            working.result()
        finally:
            gone.cancel()
            await asyncio.wait([gone])
            # The next request may have begun before this one was seen to end.
            if not gone.cancelled() and gone.exception() is None:
                wire.receive_data(gone.result())
            self.in_flight -= 1
            await self._note()
        return wire.our_state is h11.DONE and wire.their_state is h11.DONE

    async def _work(self, seen: Seen, wire: h11.Connection, writer: asyncio.StreamWriter) -> None:
        answer: Answered = await self.answer(seen)
        chunks = [answer.body] if isinstance(answer.body, bytes) else answer.body
        headers = list(answer.headers)
        if answer.trailers or not isinstance(answer.body, bytes):
            headers.append(("transfer-encoding", "chunked"))
        else:
            headers.append(("content-length", str(len(answer.body))))
        head = h11.Response(status_code=answer.status, headers=headers)
        writer.write(wire.send(head) or b"")
        for chunk in chunks if seen.method != "HEAD" else ():
            writer.write(wire.send(h11.Data(data=chunk)) or b"")
            await writer.drain()
        writer.write(wire.send(h11.EndOfMessage(headers=answer.trailers)) or b"")
        await writer.drain()


@dataclass
class Got:
    """An answer as a client got it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes = b"",
) -> Got:
    """Send one request and read the answer."""
    wire = h11.Connection(our_role=h11.CLIENT)
    if body:
        headers = [*headers, ("content-length", str(len(body)))]
    writer.write(wire.send(h11.Request(method=method, target=target, headers=headers)) or b"")
    if body:
        writer.write(wire.send(h11.Data(data=body)) or b"")
    wire.send(h11.EndOfMessage())
    got = Got(0, [], b"", [])
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            got.status = event.status_code
            got.headers = [(n.decode(), v.decode()) for n, v in event.headers]
        elif isinstance(event, h11.Data):
            got.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            got.trailers = [(n.decode(), v.decode()) for n, v in event.headers]
            return got
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionError("closed before the answer")
