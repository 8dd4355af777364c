"""The engine, transactions and hints."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import Text, bindparam, func, select, text
from sqlalchemy.engine import make_url

from ignite.db.apps import AppStore, sqlstate_of
from ignite.db.builds import BuildStore
from ignite.db.connection import Connection, prepared
from ignite.db.pool import CONNECT_SECS, GONE, Pool
from ignite.db.status import AppStatusStore
from ignite.db.versions import VersionStore
from ignite.domain.errors import Internal, Unavailable
from ignite.settings import DatabaseSettings

APPS_CHANNEL = "ignite_apps"
BUILDS_CHANNEL = "ignite_builds"
BUILD_LINES_CHANNEL = "ignite_build_lines"

# Postgres itself ends a statement in time. This bound is for one that does not answer at all.
_SLACK_SECS = 5.0
# Class 08: no connection; 57P: shutting down or starting up; 53300: no slot left.
_AWAY_STATES = ("08", "57P", "53300")

_NOTIFY = prepared(
    select(func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text)))
)
_PING = prepared(text("SELECT 1"))


class Transaction:
    """The stores of one transaction. Inside it only store calls: no network, no blob, no sleep."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.apps = AppStore(connection)
        self.versions = VersionStore(connection)
        self.builds = BuildStore(connection)
        self.status = AppStatusStore(connection)

    async def notify(self, channel: str, payload: str = "") -> None:
        """Send a hint on commit. Polling is the truth; a lost hint only costs time."""
        await self.connection.execute(_NOTIFY, {"channel": channel, "payload": payload})


class Database:
    """One pool of connections to Postgres."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._longest_secs = settings.statement_timeout_secs + _SLACK_SECS
        self._pool = Pool(
            self._url,
            size=settings.pool_size,
            wait_secs=settings.statement_timeout_secs,
            server={
                "statement_timeout": str(int(settings.statement_timeout_secs * 1000)),
                "idle_in_transaction_session_timeout": "60000",
                "application_name": "ignite",
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit at the end, roll back on any exception.

        Raises Unavailable when Postgres is not there or does not answer in time; the next
        transaction connects anew.
        """
        async with self._stores(undo="ROLLBACK") as tx:
            await tx.connection.command("BEGIN")
            yield tx
            if await tx.connection.command("COMMIT") != "COMMIT":
                raise Internal("a transaction went on after a failed statement")

    def reading(self) -> AbstractAsyncContextManager[Transaction]:
        """Give the stores without a transaction, to read with: each statement is one of its own.

        For what one statement answers: two round trips less. Raises as `transaction` does.
        """
        return self._stores(undo="SELECT 1")

    @asynccontextmanager
    async def _stores(self, *, undo: str) -> AsyncIterator[Transaction]:
        try:
            async with asyncio.timeout(self._longest_secs):
                driver = await self._pool.lend()
                try:
                    yield Transaction(Connection(driver))
                except BaseException as error:
                    await self._pool.settle(driver, error, undo=undo)
                    raise
                finally:
                    self._pool.take_back(driver)
        except GONE as error:
            if isinstance(error, ValueError):
                raise  # a value that does not fit its place: a mistake of ours
            raise _away() from error
        except asyncpg.PostgresError as error:
            if sqlstate_of(error).startswith(_AWAY_STATES):
                raise _away() from error
            raise

    async def check(self) -> None:
        """Do one round trip; raises Unavailable."""
        async with self.reading() as tx:
            await tx.connection.execute(_PING)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    async def listen(self, channels: tuple[str, ...], hear: Callable[[str, str], None]) -> None:
        """Call `hear(channel, payload)` for each hint until cancelled.

        After every (re)connection `hear(channel, "")` is called once a channel, because hints sent
        meanwhile are lost.
        """
        delay = 0.1
        while True:
            try:
                await self._listen_once(channels, hear)
            except (asyncpg.PostgresError, *GONE):
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
            else:
                delay = 0.1

    async def _listen_once(
        self, channels: tuple[str, ...], hear: Callable[[str, str], None]
    ) -> None:
        connection: Any = await asyncpg.connect(dsn=self._url, timeout=CONNECT_SECS)
        gone = asyncio.Event()
        connection.add_termination_listener(lambda *_: gone.set())
        try:
            for channel in channels:
                await connection.add_listener(
                    channel, lambda _connection, _pid, name, payload: hear(name, payload)
                )
                hear(channel, "")
            await gone.wait()
        finally:
            connection.terminate()


def _away() -> Unavailable:
    return Unavailable("the database does not answer", reason="DatabaseDown")
