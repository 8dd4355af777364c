"""One request on its way through the app: slot, deadline, the handler's run, its answer.

Everything but `_in_thread` happens on the event loop. A request has left its connection
(`_connection` is None) once it is answered or its client is gone; its slot it keeps until the
handler has ended.
"""

from __future__ import annotations

import asyncio
import inspect

from .results import BYTES, encode, encode_item, failure, platform_error
from .threads import ClientGone, ThreadStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Any

    from .connections import Connection
    from .replica import Replica
    from .wire import Head

TAINT_GRACE_SECS = 1.0  # a handler still running this long after its deadline is stuck
FAIR_CHUNKS = 16


class Request:
    """Made at the end of a request's head."""

    def __init__(self, replica: Replica, connection: Connection, head: Head) -> None:
        self.asked = False
        self.waits = False
        self._replica = replica
        self._connection: Connection | None = connection
        self._head = head
        self._body: bytes | None = None
        self._has_slot = False
        self._runs = False
        self._hands_over = False
        self._streams = False
        self._paused = False
        self._resumed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stream: ThreadStream | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # ---- before the run --------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for a slot: `granted` or `refused` follows, now or (granted) later."""
        self.asked = True
        self._replica.admit(self)

    def complete(self, body: bytes) -> None:
        """Take the whole body."""
        answer = self._replica.platform_answer(self._head)
        if answer is not None:
            if self._has_slot:
                self._has_slot = False
                self._replica.release(self)
            self._answer(*answer)
            return
        self._body = body
        if self._has_slot:
            self._start(body)
        elif not self.asked:
            self.ask()

    def granted(self) -> None:
        """Have a slot."""
        self.waits = False
        self._has_slot = True
        if self._body is not None:
            self._start(self._body)
        elif self._connection is not None:
            self._connection.proceed()

    def refused(self) -> None:
        """Find every slot taken and the queue full; the header sends the gateway elsewhere."""
        extra = "Retry-After: 1\r\nx-ignite-overflow: 1\r\n"
        data, kind = platform_error("every slot of this replica is taken", "Overload")
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answer(503, data, kind, extra)

    def leave(self) -> None:
        """Lose the client: an awaiting handler is cancelled, a thread is left to finish."""
        self._connection = None
        if self.waits:
            self.waits = False
            self._replica.withdraw(self)
        elif self._has_slot and not self._runs:
            self._has_slot = False
            self._replica.release(self)
        self._stop()

    def pause(self, paused: bool) -> None:
        """Learn whether the client is slow."""
        self._paused = paused
        if self._stream is not None:
            self._stream.pause(paused)
        if not paused and self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    # ---- the run ---------------------------------------------------------------------------------

    def _start(self, body: bytes) -> None:
        replica = self._replica
        self._runs = True
        self._body = b""
        self._deadline = replica.loop.call_later(replica.config.timeout_secs, self._on_deadline)
        head, config = self._head, replica.config
        ctx = {
            "execution_id": head.text(b"x-ignite-execution-id", ""),
            "function_id": head.text(b"x-ignite-function-id", config.function_id),
            "organization_id": head.text(b"x-ignite-organization-id", config.organization_id),
        }
        if replica.awaits:
            self._spawn(lambda: replica.handler(body, ctx))
        else:
            self._submit(lambda: replica.handler(body, ctx))

    def _spawn(self, call: Any) -> None:
        create = self._replica.loop.create_task
        self._replica.watchdog.arm()
        self._task = self._replica.context.copy().run(create, self._awaiting(call))
        self._task.add_done_callback(self._on_task_done)

    async def _awaiting(self, call: Any) -> None:
        try:
            result = call()
            if inspect.isawaitable(result):
                result = await result
            if inspect.isasyncgen(result):
                await self._stream_async(result)
            elif inspect.isgenerator(result):
                self._hands_over = True  # the end of the thread is the end of the run
                self._submit(lambda: result)
            else:
                self._answer(200, *encode(result))
        except asyncio.CancelledError as error:
            if self._connection is not None:  # nobody of ours cancelled it
                self._fail(failure(error))
        except BaseException as error:  # noqa: BLE001 - whatever an app raises is its answer
            self._fail(failure(error))

    def _on_task_done(self, _: asyncio.Task[None]) -> None:
        self._replica.watchdog.disarm()
        self._task = None
        if not self._hands_over:
            self._on_end()

    async def _stream_async(self, chunks: AsyncGenerator[Any, Any]) -> None:
        count = 0
        try:
            async for item in chunks:
                self._chunk(*encode_item(item))
                count += 1
                if self._paused:
                    self._resumed = self._replica.loop.create_future()
                    await self._resumed
                elif count % FAIR_CHUNKS == 0:
                    await asyncio.sleep(0)
        finally:
            await chunks.aclose()
        self._end_stream()

    def _submit(self, call: Any) -> None:
        replica = self._replica
        paused = self._connection is not None and not self._connection.is_writable
        self._stream = stream = ThreadStream(replica.loop, self._chunk, paused)
        if self._connection is None:
            stream.close()
        context = replica.context.copy()
        replica.pool.submit(lambda: context.run(self._in_thread, call, stream))

    def _in_thread(self, call: Any, stream: ThreadStream) -> None:
        """Run in a thread; `_on_thread_done` gets what to do about the outcome."""
        done: tuple[Any, ...]
        try:
            result = call()
            if inspect.isgenerator(result):
                _iterate(result, stream)
                done = (self._end_stream,)
            elif inspect.isawaitable(result) or inspect.isasyncgen(result):
                done = (self._spawn, lambda: result)
            else:
                done = (self._answer, 200, *encode(result))
        except ClientGone:
            done = (self._end_stream,)
        except BaseException as error:  # noqa: BLE001 - whatever an app raises is its answer
            done = (self._fail, failure(error))
        self._replica.loop.call_soon_threadsafe(self._on_thread_done, done)

    def _on_thread_done(self, done: tuple[Any, ...]) -> None:
        self._replica.pool.finished()
        self._stream = None
        action, *arguments = done
        if action != self._spawn:
            action(*arguments)
            self._on_end()
        elif self._connection is None:
            _close(arguments[0]())
            self._on_end()
        else:
            action(*arguments)

    def _on_end(self) -> None:
        """Give the slot back: the handler has ended, answered or not."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._runs = self._has_slot = False
        self._replica.release(self)

    # ---- deadline --------------------------------------------------------------------------------

    def _on_deadline(self) -> None:
        secs = self._replica.config.timeout_secs
        data, kind = platform_error(f"the handler took longer than {secs:g} s", "Timeout")
        self._finish(504, data, kind)
        self._stop()
        self._deadline = self._replica.loop.call_later(TAINT_GRACE_SECS, self._on_stuck)

    def _on_stuck(self) -> None:
        if self._runs:
            self._replica.taint(self)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._stream is not None:
            self._stream.close()

    # ---- the answer ------------------------------------------------------------------------------

    def _answer(self, status: int, data: bytes, kind: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answer(status, data, kind)

    def _chunk(self, data: bytes, kind: str) -> None:
        if self._connection is None:
            return
        if not self._streams:
            self._streams = True
            self._connection.begin_stream(kind)
        self._connection.chunk(data)

    def _end_stream(self) -> None:
        if not self._streams:
            self._answer(200, b"", BYTES)
        elif self._connection is not None:
            connection, self._connection = self._connection, None
            connection.end_stream()

    def _fail(self, answer: tuple[bytes, str]) -> None:
        self._finish(500, *answer)

    def _finish(self, status: int, data: bytes, kind: str) -> None:
        """Answer a failure; break off where the head is out already."""
        if self._streams and self._connection is not None:
            connection, self._connection = self._connection, None
            connection.abort()
        else:
            self._answer(status, data, kind)


def _iterate(chunks: Generator[Any, Any, Any], stream: ThreadStream) -> None:
    try:
        for item in chunks:
            stream.send(encode_item(item))
    finally:
        chunks.close()


def _close(result: Any) -> None:
    """Drop a coroutine that will not be awaited without the interpreter's complaint."""
    if inspect.iscoroutine(result):
        result.close()
