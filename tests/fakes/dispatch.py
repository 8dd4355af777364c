"""A fake of ports.dispatch: one prepared reply, and what became of the calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ignite.ports.dispatch import Call, Headers


@dataclass(slots=True)
class FakeReply:
    """A replica's answer.

    `gate` holds back everything behind the first chunk; `endless` is sent again and again behind
    the chunks; `breaks` is raised at the end of the body. `sent_bytes` is what was taken so far.
    """

    status: int = 200
    headers: Headers = ()
    chunks: tuple[bytes, ...] = ()
    trailers: Headers = ()
    gate: asyncio.Event | None = None
    endless: bytes = b""
    breaks: Exception | None = None
    sent_bytes: int = 0

    async def body(self) -> AsyncIterator[bytes]:
        for number, chunk in enumerate(self.chunks):
            if number and self.gate is not None:
                await self.gate.wait()
            self.sent_bytes += len(chunk)
            yield chunk
        while self.endless:
            self.sent_bytes += len(self.endless)
            yield self.endless
            await asyncio.sleep(0)
        if self.breaks is not None:
            raise self.breaks


@dataclass(slots=True)
class FakeDispatcher:
    """Answers every call with `reply`; `refuses` is raised instead, `hangs` never answers.

    `before` is what happens at the next calls, one at each, before they are answered.
    `entered` is set once a call has come, `left` once one was given up or ended.
    """

    reply: FakeReply = field(default_factory=FakeReply)
    refuses: Exception | None = None
    hangs: bool = False
    before: list[Callable[[Call], Awaitable[None]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def dispatch(self, call: Call) -> AsyncIterator[FakeReply]:
        self.calls.append(call)
        self.entered.set()
        try:
            if self.before:
                await self.before.pop(0)(call)
            if self.refuses is not None:
                raise self.refuses
            if self.hangs:
                await asyncio.Event().wait()
            yield self.reply
        finally:
            self.left.set()
