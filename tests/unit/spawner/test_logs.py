"""Pumping pipes into lines, under a rate and into a bounded file."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from ignite.spawner.logs import (
    MAX_LINE_BYTES,
    LogLine,
    LogPump,
    LogQueue,
    ReplicaLog,
    read_history,
)


async def pumped(
    writes: list[bytes],
    *,
    stream: str = "stdout",
    sink: Callable[[LogLine], bool] | None = None,
) -> tuple[list[tuple[str, str]], LogPump]:
    """Write into a pipe, end it, and return what comes out."""
    reader, writer = os.pipe()
    found: list[LogLine] = []

    def keep(line: LogLine) -> bool:
        found.append(line)
        return sink(line) if sink else True

    pump = LogPump({reader: stream}, keep)
    pump.start()

    def write() -> None:
        for data in writes:
            os.write(writer, data)
        os.close(writer)

    await asyncio.to_thread(write)
    await pump.end(10)
    os.close(reader)
    return [(line.stream, line.message) for line in found], pump


class TestLines:
    async def test_they_are_cut_at_their_ends(self) -> None:
        lines, _ = await pumped([b"one\ntw", b"o\r\n\nlast"])
        assert [text for _, text in lines] == ["one", "two", "", "last"]

    async def test_a_letter_cut_in_two_is_put_together(self) -> None:
        data = "grün\n".encode()
        lines, _ = await pumped([data[:3], data[3:]])
        assert lines == [("stdout", "grün")]

    async def test_what_is_no_text_is_kept_as_well_as_it_goes(self) -> None:
        lines, _ = await pumped([b"a\xff\x00b\n"])
        assert lines == [("stdout", "a\ufffd\x00b")]

    async def test_an_overlong_one_comes_in_pieces(self) -> None:
        lines, _ = await pumped([b"x" * 20_000 + b"\n"])
        assert max(len(text) for _, text in lines) <= MAX_LINE_BYTES
        assert sum(len(text) for _, text in lines) == 20_000


class TestBounds:
    async def test_a_flood_is_cut_and_marked(self) -> None:
        lines, _ = await pumped([b"x" * 100 + b"\n"] * 50_000)
        assert sum(len(text) for _, text in lines) < 2_000_000
        assert lines[-1][0] == "system"
        assert "dropped" in lines[-1][1]

    async def test_a_sink_that_is_full_pauses_the_pump(self) -> None:
        refused = []

        def sink(line: LogLine) -> bool:
            refused.append(line)
            return len(refused) % 2 == 0

        lines, _ = await pumped([b"a\n", b"b\n", b"c\n"], sink=sink)
        assert [text for _, text in lines] == ["a", "b", "c"]

    async def test_the_last_words_are_the_end_of_stderr(self) -> None:
        _, pump = await pumped([b"first\n" * 1000, b"the end\n"], stream="stderr")
        assert pump.last_words(100).endswith("first\nthe end")
        assert len(pump.last_words(100)) <= 100

    async def test_a_pipe_that_somebody_keeps_open_is_left_at_last(self) -> None:
        reader, writer = os.pipe()
        found: list[str] = []
        pump = LogPump({reader: "stdout"}, lambda line: found.append(line.message))
        pump.start()
        os.write(writer, b"one\nrest")
        await asyncio.sleep(0)
        await pump.end(0.05)
        assert found == ["one", "rest"]
        os.close(writer)
        os.close(reader)


def line(number: int) -> LogLine:
    return LogLine(ts_ms=number, stream="stdout", message=f"line {number} " + "x" * 80)


class TestFile:
    def test_history_is_the_newest_in_order(self, tmp_path: Path) -> None:
        log = ReplicaLog(tmp_path, most_bytes=1_000_000)
        for number in range(10):
            log.write(line(number))
        log.close()
        assert [found.ts_ms for found in read_history(tmp_path, 3)] == [7, 8, 9]

    def test_it_stays_within_its_bound_and_keeps_the_newest(self, tmp_path: Path) -> None:
        log = ReplicaLog(tmp_path, most_bytes=20_000)
        for number in range(2000):
            log.write(line(number))
        log.close()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
        found = [one.ts_ms for one in read_history(tmp_path, 10_000)]
        assert found == list(range(found[0], 2000))
        assert len(found) > 50

    def test_a_torn_line_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"ts_ms": 1, "stream": "stdout", "message": "a"}\n{"ts_')
        assert [found.message for found in read_history(tmp_path, 10)] == ["a"]

    async def test_followers_get_lines_and_the_end(self, tmp_path: Path) -> None:
        log = ReplicaLog(tmp_path, most_bytes=20_000)
        queue: LogQueue = asyncio.Queue()
        with log.follow(queue):
            log.write(line(1))
            log.close()
        assert queue.get_nowait() == (tmp_path.name, line(1))
        assert queue.get_nowait() == (tmp_path.name, None)
