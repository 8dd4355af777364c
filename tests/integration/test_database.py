"""The pool and its transactions on a real Postgres: what is lent comes back whole or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import asyncpg
import pytest
from sqlalchemy import bindparam, text

from ignite.db.connection import prepared
from ignite.db.database import Database, Transaction
from ignite.domain.errors import Internal, Unavailable
from ignite.settings import DatabaseSettings

SESSION = text("SELECT pg_backend_pid()")
XID = text("SELECT pg_current_xact_id_if_assigned()::text")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(database_url, DatabaseSettings(pool_size=1, statement_timeout_secs=5))
    yield found
    await found.close()


async def session(tx: Transaction) -> int:
    return int((await tx.connection.execute(SESSION)).scalar_one())


async def add(tx: Transaction, name: str) -> None:
    statement = text("INSERT INTO organizations (id, name) VALUES (:id, :name)")
    values = {"id": name, "name": name}
    await tx.connection.execute(statement, values)


async def names(database: Database) -> list[str]:
    async with database.reading() as tx:
        rows = await tx.connection.execute(text("SELECT name FROM organizations ORDER BY name"))
        return list(rows.scalars())


class TestTransactions:
    async def test_commits_at_the_end(self, database: Database) -> None:
        async with database.transaction() as tx:
            await add(tx, "a")
        assert await names(database) == ["a"]

    @pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
    async def test_rolls_back_on_any_exception_and_keeps_the_connection(
        self, database: Database, error: type[BaseException]
    ) -> None:
        sessions: list[int] = []

        async def fail() -> None:
            async with database.transaction() as tx:
                sessions.append(await session(tx))
                await add(tx, "a")
                raise error

        with pytest.raises(error):
            await fail()
        assert await names(database) == []
        async with database.reading() as tx:
            assert [await session(tx)] == sessions

    async def test_going_on_after_a_failed_statement_is_no_commit(self, database: Database) -> None:
        async def go_on() -> None:
            async with database.transaction() as tx:
                await add(tx, "a")
                with pytest.raises(asyncpg.UniqueViolationError):
                    await add(tx, "a")

        with pytest.raises(Internal):
            await go_on()
        assert await names(database) == []

    async def test_reading_opens_no_transaction(self, database: Database) -> None:
        async with database.reading() as tx:
            await add(tx, "a")
            assert (await tx.connection.execute(XID)).scalar_one() is None
        assert await names(database) == ["a"]


class TestCancellation:
    async def test_statement_that_is_cancelled_ends_and_the_connection_goes_on(
        self, database: Database, database_url: str
    ) -> None:
        for _ in range(3):
            started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(sleep(database, started))
            pid = await started
            await until(partial(is_sleeping, database_url, pid))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await names(database) == []


async def sleep(database: Database, started: "asyncio.Future[int]") -> None:
    async with database.transaction() as tx:
        await add(tx, "a")
        started.set_result(await session(tx))
        await tx.connection.execute(text("SELECT pg_sleep(60)"))


async def is_sleeping(url: str, pid: int) -> bool:
    """Tell whether that session sleeps in a statement, asked over a connection of its own."""
    connection = await asyncpg.connect(dsn=url)
    try:
        found = "SELECT state = 'active' AND query LIKE '%pg_sleep%' FROM pg_stat_activity"
        return bool(await connection.fetchval(f"{found} WHERE pid = $1", pid))
    finally:
        await connection.close()


async def is_gone(url: str, pid: int) -> bool:
    """Tell whether Postgres has ended that session."""
    connection = await asyncpg.connect(dsn=url)
    try:
        found = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
        return bool(await connection.fetchval(found, pid) == 0)
    finally:
        await connection.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition; fails after a while."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - another process' state
            await asyncio.sleep(0.01)


class TestPool:
    async def test_session_that_was_ended_is_unavailable_once(
        self, database: Database, database_url: str
    ) -> None:
        async with database.reading() as tx:
            before = await session(tx)
        connection = await asyncpg.connect(dsn=database_url)

        async def use() -> None:
            async with database.transaction() as tx:
                await session(tx)
                await connection.execute("SELECT pg_terminate_backend($1)", before)
                await session(tx)

        with pytest.raises(Unavailable):
            await use()
        await connection.close()
        async with database.reading() as tx:
            assert await session(tx) != before

    async def test_no_more_sessions_than_asked_for(self, database_url: str) -> None:
        database = Database(database_url, DatabaseSettings(pool_size=3))
        used: set[int] = set()

        async def use() -> None:
            async with database.transaction() as tx:
                used.add(await session(tx))

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(use())
        assert len(used) <= 3
        await database.close()

    async def test_lent_connection_is_closed_when_it_comes_back_to_a_closed_pool(
        self, database: Database, database_url: str
    ) -> None:
        async with database.reading() as tx:
            lent = await session(tx)
            await database.close()
        await until(partial(is_gone, database_url, lent))


class TestStatements:
    async def test_free_parameters_are_given_at_each_execution(self, database: Database) -> None:
        statement = prepared(text("SELECT CAST(:a AS int) + CAST(:b AS int)"))
        async with database.reading() as tx:
            for number in range(3):
                rows = await tx.connection.execute(statement, {"a": number, "b": 10})
                assert rows.scalar_one() == number + 10

    async def test_fixed_parameter_may_be_given_otherwise(self, database: Database) -> None:
        statement = prepared(text("SELECT CAST(:a AS int)").bindparams(bindparam("a", 1)))
        async with database.reading() as tx:
            assert (await tx.connection.execute(statement)).scalar_one() == 1
            assert (await tx.connection.execute(statement, {"a": 2})).scalar_one() == 2

    async def test_one_row_is_one_row(self, database: Database) -> None:
        async with database.reading() as tx:
            many = await tx.connection.execute(text("SELECT * FROM generate_series(1, 2)"))
            none = await tx.connection.execute(text("SELECT 1 WHERE false"))
        assert none.one_or_none() is None
        assert none.scalar_one_or_none() is None
        for rows in (many, none):
            with pytest.raises(LookupError):
                rows.one()
        with pytest.raises(LookupError):
            many.one_or_none()
