"""A constant stream of requests to one app, and the record of what became of each.

Open loop: a request leaves when it is due, however slow the ones before it are, so a server that
stands still for a second is seen to. Every request carries a nonce, which the app echoes with its
version and replica; that shows answers that were lost, doubled or another request's.
"""

import asyncio
import json
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

ANSWER_SECS = 100.0
MAX_CONNECTIONS = 500
HEAD_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to call: the listener, and the app by its host name and id."""

    address: tuple[str, int]
    host: str
    app_id: str
    token: str


@dataclass(slots=True, kw_only=True)
class Call:
    """One request. `status` 0 is no answer, then `error` says why. Times are monotonic."""

    nonce: str
    order: str
    due_at: float
    sent_at: float = 0.0
    done_at: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    error: str = ""

    @property
    def said(self) -> dict[str, Any]:
        """What the app said; empty where it was not the app that answered."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) and "nonce" in found else {}

    @property
    def secs(self) -> float:
        """How long the answer took from the moment at which the request was due."""
        return self.done_at - self.due_at

    def __str__(self) -> str:
        reason = self.headers.get("x-ignite-error", "")
        text = self.text[-160:].decode(errors="replace")
        times = f"{self.sent_at:.4f}-{self.done_at:.4f}"
        return f"{self.nonce} [{self.order}] {times} {self.status} {reason} {self.error} {text}"


@dataclass(slots=True, kw_only=True)
class Report:
    """All calls of one load."""

    target: Target
    calls: list[Call] = field(default_factory=list)

    @property
    def ok(self) -> list[Call]:
        """Answered by the app, with 200."""
        return [call for call in self.calls if call.status == 200 and call.said]

    @property
    def failed(self) -> list[Call]:
        """Answered otherwise, or not at all."""
        return [call for call in self.calls if not (call.status == 200 and call.said)]

    @property
    def misrouted(self) -> list[Call]:
        """Answered with what was meant for another request, or by another app."""
        return [
            call
            for call in self.ok
            if call.said["nonce"] != call.nonce or call.said["app"] != self.target.app_id
        ]

    @property
    def doubled(self) -> list[Call]:
        """Run more than once by the replica that answered."""
        return [call for call in self.ok if call.said["times"] != 1]

    @property
    def versions(self) -> Counter[str]:
        """How many answers each version gave."""
        return Counter(call.said["version"] for call in self.ok)

    @property
    def replicas(self) -> Counter[str]:
        """How many answers each replica gave."""
        return Counter(call.said["replica"] for call in self.ok)

    @property
    def slowest(self) -> float:
        """The longest time to a good answer."""
        return max((call.secs for call in self.ok), default=0.0)

    def since(self, moment: float) -> list[Call]:
        """Return the good answers to requests that were sent at `moment` or later."""
        return [call for call in self.ok if call.sent_at >= moment]

    def row(self) -> str:
        """Return the figures in one line."""
        return (
            f"sent={len(self.calls)} ok={len(self.ok)} failed={len(self.failed)} "
            f"misrouted={len(self.misrouted)} doubled={len(self.doubled)} "
            f"max={self.slowest * 1000:.0f}ms versions={dict(self.versions)} "
            f"replicas={len(self.replicas)}"
        )

    def check(self, *, may_fail: Iterable[Call] = ()) -> None:
        """Assert that every request had its own answer, once; `may_fail` had none at most."""
        excused = {call.nonce for call in may_fail}
        failed = [call for call in self.failed if call.nonce not in excused]
        shown = "\n".join(str(call) for call in failed[:10])
        assert not failed, f"{self.row()}\n{len(failed)} failed:\n{shown}"
        assert not self.misrouted, f"misrouted:\n{self.misrouted[0]}"
        assert not self.doubled, f"run twice:\n{self.doubled[0]}"


class Load:
    """Sends requests until it is stopped; connections are kept and used again."""

    def __init__(self, target: Target, *, rate: float) -> None:
        self.report = Report(target=target)
        self._target = target
        self._rate = rate
        self._name = os.urandom(4).hex()
        self._count = 0
        self._idle: deque[Connection] = deque()
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._answered = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def arrive(self) -> None:
        """Send at the rate until cancelled."""
        began, number = time.monotonic(), 0
        while True:
            due = began + number / self._rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.send(due_at=due)
            number += 1

    def send(self, order: str = "", *, due_at: float | None = None) -> Call:
        """Send one request now; `order` is what the app is told to do with it."""
        self._count += 1
        call = Call(
            nonce=f"{self._name}-{self._count}", order=order, due_at=due_at or time.monotonic()
        )
        self.report.calls.append(call)
        task = asyncio.ensure_future(self._carry(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    async def until(self, is_so: Callable[[Report], bool], *, secs: float = ANSWER_SECS) -> None:
        """Wait until the answers so far are so."""
        async with asyncio.timeout(secs), self._answered:
            await self._answered.wait_for(lambda: is_so(self.report))

    async def wait_for(self, call: Call) -> None:
        """Wait for one answer."""
        await self.until(lambda _: call.done_at > 0)

    async def settle(self) -> None:
        """Wait for all answers that are due; each has a bound of its own."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _carry(self, call: Call) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECS), self._room:
                await self._exchange(call)
        except (OSError, EOFError, ValueError) as error:
            call.error = f"{type(error).__name__}: {error}"
        finally:
            call.done_at = time.monotonic()
            async with self._answered:
                self._answered.notify_all()

    async def _exchange(self, call: Call) -> None:
        call.sent_at = time.monotonic()
        reader, writer = await self._connection()
        kept = False
        try:
            writer.write(self._request(call))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(_field(line) for line in head[1:] if line)
            call.text = await _body(reader, headers)
            call.headers, call.status = headers, int(head[0].split(" ", 2)[1])
            kept = headers.get("connection", "").lower() != "close"
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._target.address, limit=HEAD_BYTES)

    def _request(self, call: Call) -> bytes:
        body = f"{call.nonce} {call.order}".encode()
        return (
            f"POST / HTTP/1.1\r\nhost: {self._target.host}\r\n"
            f"authorization: Bearer {self._target.token}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"]))
    found = b""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        found += await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass
    return found


@asynccontextmanager
async def loaded(target: Target, *, rate: float) -> AsyncIterator[Load]:
    """Send at `rate` while the block runs, then wait for what is due. Rate 0 sends nothing."""
    load = Load(target, rate=rate)
    arriving = asyncio.ensure_future(load.arrive()) if rate else None
    try:
        yield load
    finally:
        if arriving is not None:
            arriving.cancel()
            await asyncio.wait([arriving])
        await load.settle()
        await load.close()
