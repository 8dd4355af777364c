"""The engine, transactions and hints."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ignite.db.apps import AppStore
from ignite.db.builds import BuildStore
from ignite.db.status import AppStatusStore
from ignite.db.versions import VersionStore
from ignite.domain.errors import Unavailable
from ignite.settings import DatabaseSettings

APPS_CHANNEL = "ignite_apps"
BUILDS_CHANNEL = "ignite_builds"
BUILD_LINES_CHANNEL = "ignite_build_lines"

# Postgres itself ends a statement in time. This bound is for one that does not answer at all.
_SLACK_SECS = 5.0

# A TimeoutError is an OSError.
_AWAY = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    OSError,
    asyncpg.CannotConnectNowError,
)


class Transaction:
    """The stores of one transaction. Inside it only store calls: no network, no blob, no sleep."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.apps = AppStore(connection)
        self.versions = VersionStore(connection)
        self.builds = BuildStore(connection)
        self.status = AppStatusStore(connection)

    async def notify(self, channel: str, payload: str = "") -> None:
        """Send a hint on commit. Polling is the truth; a lost hint only costs time."""
        await self.connection.execute(
            text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload}
        )


class Database:
    """One pool of connections to Postgres."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._url = make_url(url).set(drivername="postgresql+asyncpg")
        self._longest_secs = settings.statement_timeout_secs + _SLACK_SECS
        self._engine: AsyncEngine = create_async_engine(
            self._url,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.statement_timeout_secs,
            pool_pre_ping=False,
            connect_args={
                "server_settings": {
                    "statement_timeout": str(int(settings.statement_timeout_secs * 1000)),
                    "idle_in_transaction_session_timeout": "60000",
                    "application_name": "ignite",
                },
                "timeout": 10,
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit at the end, roll back on any exception.

        Raises Unavailable when Postgres is not there or does not answer in time; the next
        transaction connects anew.
        """
        try:
            async with asyncio.timeout(self._longest_secs), self._engine.begin() as connection:
                yield Transaction(connection)
        except _AWAY as error:
            raise Unavailable("the database does not answer", reason="DatabaseDown") from error
        except DBAPIError as error:
            # Class 08: no connection; 57P: shutting down or starting up; 53300: no slot left.
            state = str(getattr(error.orig, "sqlstate", "") or "")
            if error.connection_invalidated or state.startswith(("08", "57P", "53300")):
                raise Unavailable("the database does not answer", reason="DatabaseDown") from error
            raise

    async def check(self) -> None:
        """Do one round trip; raises Unavailable."""
        async with self.transaction() as tx:
            await tx.connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()

    async def listen(self, channels: tuple[str, ...], hear: Callable[[str, str], None]) -> None:
        """Call `hear(channel, payload)` for each hint until cancelled.

        After every (re)connection `hear(channel, "")` is called once a channel, because hints sent
        meanwhile are lost.
        """
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        delay = 0.1
        while True:
            try:
                await self._listen_once(url, channels, hear)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
            else:
                delay = 0.1

    async def _listen_once(
        self, url: str, channels: tuple[str, ...], hear: Callable[[str, str], None]
    ) -> None:
        connection: Any = await asyncpg.connect(dsn=url, timeout=10)
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
