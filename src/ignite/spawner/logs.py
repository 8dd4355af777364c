"""What replicas and compiles write: pumped out of their pipes, bounded in every direction.

A tenant decides how much comes. Reading is slowed first (the pipe fills and the writer waits), what
is kept is bounded by a rate (dropped lines leave a mark with their number) and by the size of the
file.
"""

import asyncio
import codecs
import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 1024
SYSTEM = "system"

# Ten megabytes a second are read and a fifth of a megabyte kept, after a burst of one megabyte.
_TICK_SECS = 0.1
_READ_BYTES_PER_TICK = 1024 * 1024
_KEPT_BYTES_PER_SEC = 200 * 1024
_KEPT_BURST_BYTES = 1024 * 1024
_FULL_SECS = 0.02
_LINE_COST = 64
_LEAST_ALLOWANCE = 4 * _LINE_COST
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line; `stream` is stdout, stderr, or system for our own marks."""

    ts_ms: int
    stream: str
    message: str


LogQueue = asyncio.Queue[tuple[str, LogLine | None]]
"""Lines with the id of their replica; None ends one replica's."""


class ReplicaLog:
    """The log file of one replica: two halves, the older one dropped when the newer is full."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._id = folder.name
        self._file = folder / "log"
        self._older = folder / "log.1"
        self._half = max(4096, most_bytes // 2)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._open: Callable[[], int] = lambda: os.open(self._file, flags, 0o600)
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size
        self._followers: set[LogQueue] = set()
        self.is_closed = False

    def write(self, line: LogLine) -> None:
        """Append a line. A full disk loses it; a replica never stands still for its log."""
        if self.is_closed:
            return
        text = json.dumps(
            {"ts_ms": line.ts_ms, "stream": line.stream, "message": line.message},
            ensure_ascii=False,
        )
        data = text.encode("utf-8", "replace") + b"\n"
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._half:
                os.close(self._descriptor)
                self._file.replace(self._older)
                self._descriptor = self._open()
                self._size = 0
            self._size += os.write(self._descriptor, data)
        for follower in self._followers:
            # A follower that does not read misses lines; the file has them.
            with contextlib.suppress(asyncio.QueueFull):
                follower.put_nowait((self._id, line))

    @contextlib.contextmanager
    def follow(self, queue: LogQueue) -> Iterator[None]:
        """Put the lines to come into `queue`."""
        self._followers.add(queue)
        try:
            yield
        finally:
            self._followers.discard(queue)

    def close(self) -> None:
        """Close the file and end its followers."""
        if self.is_closed:
            return
        self.is_closed = True
        os.close(self._descriptor)
        for follower in self._followers:
            if follower.full():
                follower.get_nowait()
            follower.put_nowait((self._id, None))


def read_history(folder: Path, limit: int) -> list[LogLine]:
    """Return the newest `limit` lines of a replica's folder, oldest first."""
    lines: deque[LogLine] = deque(maxlen=limit)
    for path in (folder / "log.1", folder / "log"):
        with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
            for text in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    lines.append(LogLine(**json.loads(text)))
    return list(lines)


class LogPump:
    """Reads pipes into lines. `sink` answers False to ask for a pause."""

    def __init__(
        self,
        pipes: Mapping[int, str],
        sink: Callable[[LogLine], bool | None],
        *,
        kept_bytes_per_sec: int = _KEPT_BYTES_PER_SEC,
    ) -> None:
        self._pipes = {descriptor: _Splitter(stream) for descriptor, stream in pipes.items()}
        self._sink = sink
        self._rate = kept_bytes_per_sec
        self._allowance = float(_KEPT_BURST_BYTES)
        self._refilled_at = 0.0
        self._dropped = 0
        self._read_in_tick = 0
        self._tick_ends_at = 0.0
        self._paused: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._tail = b""

    def start(self) -> None:
        """Begin to read."""
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
        self._resume()

    async def end(self, within_secs: float) -> None:
        """Wait until the pipes are empty, then stop reading whatever comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_secs):
                await self._ended.wait()
        self._pause()
        for splitter in self._pipes.values():
            self._take(splitter.rest(), splitter.stream)
        self._mark_gap()

    def last_words(self, most_bytes: int) -> str:
        """Return the end of stderr."""
        return self._tail[-most_bytes:].decode("utf-8", "ignore").strip()

    def _resume(self) -> None:
        self._paused = None
        loop = asyncio.get_running_loop()
        for descriptor, splitter in self._pipes.items():
            if not splitter.is_ended:
                loop.add_reader(descriptor, self._read, descriptor)

    def _pause(self, secs: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in self._pipes:
            loop.remove_reader(descriptor)
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if secs is not None:
            self._paused = loop.call_later(secs, self._resume)

    def _read(self, descriptor: int) -> None:
        splitter = self._pipes[descriptor]
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            splitter.is_ended = True
            asyncio.get_running_loop().remove_reader(descriptor)
            if all(other.is_ended for other in self._pipes.values()):
                self._ended.set()
            return
        now = asyncio.get_running_loop().time()
        is_taking = True
        if self._refill(now) < _LEAST_ALLOWANCE:
            # Cutting into lines what is thrown away would cost us more than it costs the writer.
            self._dropped += splitter.skip(data)
        else:
            is_taking = self._take(splitter.lines(data), splitter.stream)
        if splitter.stream == "stderr":
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if now > self._tick_ends_at:
            self._tick_ends_at = now + _TICK_SECS
            self._read_in_tick = 0
        self._read_in_tick += len(data)
        if not is_taking:
            self._pause(_FULL_SECS)
        elif self._read_in_tick > _READ_BYTES_PER_TICK:
            self._pause(max(0.0, self._tick_ends_at - now))

    def _refill(self, now: float) -> float:
        grown = self._allowance + (now - self._refilled_at) * self._rate
        self._allowance = min(_KEPT_BURST_BYTES, grown)
        self._refilled_at = now
        return self._allowance

    def _take(self, lines: list[str], stream: str) -> bool:
        """Hand lines on as far as the rate allows; False where the sink asks for a pause."""
        is_taking = True
        for line in lines:
            # Every line costs a little, empty ones too.
            cost = len(line) + _LINE_COST
            if cost > self._allowance:
                self._dropped += 1
                continue
            self._mark_gap()
            self._allowance -= cost
            is_taking = self._give(stream, line) and is_taking
        return is_taking

    def _mark_gap(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._give(SYSTEM, f"{dropped} lines dropped: more was written than is kept")

    def _give(self, stream: str, message: str) -> bool:
        line = LogLine(ts_ms=int(time() * 1000), stream=stream, message=message)
        return self._sink(line) is not False


class _Splitter:
    """Cuts one stream into lines; an overlong one comes in pieces."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.is_ended = False
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def lines(self, data: bytes) -> list[str]:
        self._text += self._decoder.decode(data)
        *whole, self._text = self._text.split("\n")
        if len(self._text) > MAX_LINE_BYTES:
            whole.append(self._text)
            self._text = ""
        return [piece for line in whole for piece in _pieces(line.removesuffix("\r"))]

    def skip(self, data: bytes) -> int:
        """Throw `data` away and return how many lines began in it."""
        self._decoder.reset()
        self._text = ""
        return data.count(b"\n") or 1

    def rest(self) -> list[str]:
        text, self._text = self._text + self._decoder.decode(b"", True), ""
        return list(_pieces(text)) if text else []


def _pieces(line: str) -> Iterator[str]:
    for start in range(0, max(1, len(line)), MAX_LINE_BYTES):
        yield line[start : start + MAX_LINE_BYTES]
