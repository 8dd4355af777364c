"""Connections to Postgres that are made once and used by one caller at a time.

The one that was used last is given out first: it has the statements of the hot calls prepared.
Whatever went wrong under a connection, it goes back only when it has answered once more in time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# What says that a connection is of no more use. A TimeoutError is an OSError; the last comes when
# Postgres ended the session, and a statement came between its words and the end of the socket.
GONE = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)

CONNECT_SECS = 10.0
_RECOVERY_SECS = 2.0


class Pool:
    """At most `size` connections, made when they are needed."""

    def __init__(self, url: str, *, size: int, wait_secs: float, server: dict[str, str]) -> None:
        self._url = url
        self._wait_secs = wait_secs
        self._server = server
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Driver] = []
        self._is_closed = False

    async def lend(self) -> Driver:
        """Lend a connection until it is taken back.

        Raises TimeoutError when none is free in time, and what the driver raises.
        """
        if self._slots.locked():
            async with asyncio.timeout(self._wait_secs):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        try:
            return self._reuse() or await self._connect()
        except BaseException:
            self._slots.release()
            raise

    async def settle(self, driver: Driver, error: BaseException, *, undo: str) -> None:
        """Bring a lent connection back to its start by `undo` where `error` left it elsewhere."""
        # After a plain error the driver knows where the connection stands.
        unsure = not isinstance(error, Exception) or isinstance(error, GONE)
        if unsure or driver.is_in_transaction():
            await _bounded(driver, driver.execute(undo))

    def take_back(self, driver: Driver) -> None:
        """Take a connection back that was lent."""
        self._slots.release()
        if driver.is_closed():
            return
        if self._is_closed:
            driver.terminate()
        else:
            self._idle.append(driver)

    async def close(self) -> None:
        """Close what is idle; what is lent is closed when it comes back."""
        self._is_closed = True
        while self._idle:
            driver = self._idle.pop()
            await _bounded(driver, driver.close())

    def _reuse(self) -> "Driver | None":
        while self._idle:
            driver = self._idle.pop()
            if not driver.is_closed():
                return driver
        return None

    async def _connect(self) -> Driver:
        driver: Driver = await asyncpg.connect(
            dsn=self._url, timeout=CONNECT_SECS, server_settings=self._server
        )
        await driver.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=_to_json, decoder=json.loads
        )
        return driver


async def _bounded(driver: Driver, step: Awaitable[Any]) -> None:
    """Do a last step; a connection that does not do it in time is thrown away."""
    try:
        async with asyncio.timeout(_RECOVERY_SECS):
            await step
    except asyncio.CancelledError:
        driver.terminate()
        raise
    except (asyncpg.PostgresError, *GONE):
        driver.terminate()


_to_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":")).encode
