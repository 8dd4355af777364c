"""One request carried to one replica, and who is told of it."""

import asyncio
from pathlib import Path

from ignite.domain.workloads import Endpoint
from ignite.gateway.heads import Head, read_head
from ignite.gateway.relay import Body, Exchange, relay

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_an_answer_is_told_of_though_its_caller_leaves_at_once(tmp_path: Path) -> None:
    """Envoy closes a request's connection as soon as it has the answer, which ends the task."""
    told: list[str] = []

    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(ANSWER)
        await reader.read()  # it never closes by itself
        writer.close()

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert head is not None
        carried = asyncio.ensure_future(_carry(head, reader, writer, told))
        tasks.append(carried)
        await asyncio.wait([carried])
        writer.close()

    tasks: list[asyncio.Task[None]] = []
    async with (
        await asyncio.start_unix_server(replica, tmp_path / "replica"),
        await asyncio.start_unix_server(gateway, tmp_path / "gateway"),
    ):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "gateway")
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        got = await reader.readuntil(b"ok")
        (carried,) = tasks
        assert not carried.done()
        carried.cancel()
        await asyncio.wait([carried])
        writer.close()
    assert carried.cancelled()
    assert got.startswith(b"HTTP/1.1 200")
    assert told == ["answered"]


async def _carry(
    head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: list[str]
) -> None:
    where = writer.get_extra_info("sockname")
    await relay(
        Endpoint(unix_path=str(Path(where).with_name("replica"))),
        head,
        Exchange(body=Body(reader), writer=writer),
        timeout_secs=20,
        extra=(),
        on_answer=lambda: told.append("answered"),
    )
