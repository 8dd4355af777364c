"""The database goes away under running controllers: they stay, serve from memory, and catch up."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url
from tests.fakes.builder import FakeBuilder
from tests.support.deployments import HELLO, Rig, rigged, until

from ignite.controllers.builds import Builds
from ignite.domain.apps import DeploymentState, Scaling
from ignite.domain.builds import BuildState
from ignite.domain.errors import Unavailable


class Wire:
    """A unix socket before Postgres' own, which can be cut."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = make_url(target)
        self._target = _socket(self.url)
        self.url = self.url.update_query_dict({"host": str(folder), "port": "5432"})
        self._path = str(folder / ".s.PGSQL.5432")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def back(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def away(self) -> None:
        assert self._server is not None
        self._server.close()
        os.unlink(self._path)
        for writer in list(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def being_away(self) -> AsyncIterator[None]:
        await self.away()
        try:
            yield
        finally:
            await self.back()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, there}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, there))
                group.create_task(_copy(there_reader, writer))
        finally:
            self._writers -= {writer, there}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


def _socket(url: URL) -> str:
    host, port = url.query.get("host", url.host), url.query.get("port", url.port) or 5432
    return f"{host}/.s.PGSQL.{port}"


@pytest.fixture
async def cut(database_url: str, tmp_path: Path) -> AsyncIterator[Wire]:
    wire = Wire(tmp_path, database_url)
    await wire.back()
    yield wire
    await wire.away()


@pytest.fixture
async def rig(cut: Wire) -> AsyncIterator[Rig]:
    async with rigged(cut.url.render_as_string(hide_password=False)) as rig:
        yield rig


async def test_apps_wake_and_sleep_while_the_database_is_away(rig: Rig, cut: Wire) -> None:
    await rig.create(scaling=Scaling(scaledown_period_secs=1))
    await rig.live()
    rig.demand(1, in_flight=0)
    await until(lambda: rig.backend.ready(1) == 0)
    await until(lambda: rig.state_is(DeploymentState.COLD))
    async with cut.being_away():
        assert (await rig.controller.deployments.wake(HELLO, None)).ok
        await until(rig.is_warm)
        rig.demand(1, in_flight=0)
        await until(lambda: rig.backend.ready(1) == 0)
        assert (await rig.controller.deployments.wake(HELLO, None)).ok
        await until(rig.is_warm)
        rig.demand(1, in_flight=1)
        await asyncio.sleep(3)  # polls and retries have failed more than once
        assert not rig.controller.task.done()
    await until(lambda: rig.state_is(DeploymentState.DEPLOYED))


async def test_what_is_asked_for_afterwards_is_done(rig: Rig, cut: Wire) -> None:
    await rig.create()
    await rig.live(b"one")
    async with cut.being_away():
        await asyncio.sleep(1)
    await until(lambda: _answers(rig))
    await rig.live(b"two")


async def test_a_rollout_that_gets_ready_while_the_database_is_away_is_finished(
    rig: Rig, cut: Wire
) -> None:
    await rig.create()
    rig.backend.manual = {1}
    await rig.publish(b"one")
    await until(lambda: rig.backend.has(1))
    async with cut.being_away():
        rig.backend.make_ready(1)
        await asyncio.sleep(1)
        assert rig.route() is None
    await until(lambda: _answers(rig))
    await rig.until_active(1)


async def test_an_app_deleted_while_hints_are_lost_is_ended(rig: Rig, cut: Wire) -> None:
    await rig.create()
    await rig.live()
    await rig.until_settled()
    async with cut.being_away():
        await asyncio.sleep(0.2)
    await until(lambda: _answers(rig))
    async with rig.database.transaction() as tx:
        # Not even a hint.
        await tx.apps.delete(await tx.apps.get(HELLO, lock=True))
    await cut.away()
    await cut.back()
    await until(lambda: not rig.backend.workloads)
    assert rig.routes() == []


async def test_a_compile_outlives_a_database_that_is_away_for_a_moment(
    cut: Wire,
) -> None:
    url = cut.url.render_as_string(hide_password=False)
    async with rigged(url, is_started=False) as rig:
        await rig.create()
        builder = FakeBuilder()
        builder.gate.clear()
        builds = Builds(rig.database, builder, concurrency=1, log_bytes=100_000)
        task = asyncio.ensure_future(builds.run(lambda: None))
        try:
            await rig.save(b"one")
            build = await rig.drafts.compile(HELLO)
            await until(lambda: bool(builder.running))
            async with cut.being_away():
                builder.gate.set()
                await until(lambda: not builder.running)
                await asyncio.sleep(1.5)

            async def is_done() -> bool:
                if not await _answers(rig):
                    return False
                async with rig.database.transaction() as tx:
                    found = await tx.builds.get(build.app_id, build.id)
                return found is not None and found.state is BuildState.SUCCEEDED

            await until(is_done, within=60)
            assert not task.done()
            assert builder.built == [build.id]
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _answers(rig: Rig) -> bool:
    try:
        await rig.database.check()
    except Unavailable:
        return False
    return True
