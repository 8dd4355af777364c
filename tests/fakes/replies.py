"""A scripted ports.dispatch: answers as told, remembers the calls, notices disconnects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ignite.ports.dispatch import Call, Headers, Reply


@dataclass
class ScriptedReply:
    """An answer; `breaks` is raised behind the chunks, `gate` holds all but the first back."""

    status: int = 200
    headers: Headers = ()
    chunks: tuple[bytes, ...] = ()
    trailers: Headers = ()
    breaks: Exception | None = None
    gate: asyncio.Event | None = None
    endless: bytes = b""
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


@dataclass
class ScriptedDispatcher:
    """Gives `reply` to every call, or raises `refuses`; `hangs` never gives a head."""

    reply: ScriptedReply = field(default_factory=ScriptedReply)
    refuses: Exception | None = None
    hangs: bool = False
    calls: list[Call] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def dispatch(self, call: Call) -> AsyncIterator[Reply]:
        self.calls.append(call)
        self.entered.set()
        try:
            if self.refuses is not None:
                raise self.refuses
            if self.hangs:
                await asyncio.Event().wait()
            yield self.reply
        finally:
            self.left.set()
