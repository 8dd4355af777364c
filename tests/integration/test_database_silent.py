"""A Postgres that is reached and says nothing: callers hear so in time and go on once it speaks."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from ignite.db.database import Database
from ignite.domain.errors import Unavailable
from ignite.settings import DatabaseSettings

STATEMENT_SECS = 0.5
LONGEST_SECS = STATEMENT_SECS + 5 + 3  # and the time to give a connection up


class Silencer:
    """A unix socket before Postgres' own that can hold back every answer."""

    def __init__(self, folder: Path, target: str) -> None:
        url = make_url(target)
        host, port = url.query.get("host", url.host), url.query.get("port", url.port) or 5432
        self._target = f"{host}/.s.PGSQL.{port}"
        self._path = str(folder / ".s.PGSQL.5432")
        self.url = url.update_query_dict({"host": str(folder), "port": "5432"}).render_as_string(
            hide_password=False
        )
        self.speaks = asyncio.Event()
        self.speaks.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.speaks.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_unix_connection(self._target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, there, held=False))
            group.create_task(self._copy(there_reader, writer, held=True))

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool
    ) -> None:
        try:
            while data := await reader.read(65_536):
                if held:
                    await self.speaks.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def silencer(database_url: str, tmp_path: Path) -> AsyncIterator[Silencer]:
    made = Silencer(tmp_path, database_url)
    await made.start()
    yield made
    await made.stop()


def database(silencer: Silencer, pool_size: int = 2) -> Database:
    settings = DatabaseSettings(statement_timeout_secs=STATEMENT_SECS, pool_size=pool_size)
    return Database(silencer.url, settings)


async def test_silence_is_unavailable_in_time_and_over_when_it_speaks(silencer: Silencer) -> None:
    there = database(silencer)
    await there.check()
    silencer.speaks.clear()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await there.check()
    assert time.monotonic() - began < LONGEST_SECS
    silencer.speaks.set()
    await there.check()
    await there.close()


async def test_who_waits_for_a_connection_is_told_too(silencer: Silencer) -> None:
    there = database(silencer, pool_size=1)
    async with there.transaction():
        with pytest.raises(Unavailable):
            await there.check()
    await there.check()
    await there.close()
