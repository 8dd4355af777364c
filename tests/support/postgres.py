"""Fixtures: one real Postgres a worker, and a fresh database a test.

`database_url` is a clone of a database that was migrated once; cloning takes some 50 ms.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from tests.support.docker import docker_answers
from tests.support.servers import embedded, run

from ignite.db.migrate import migrate

_numbers = itertools.count(1)

# A test's machine does not lose power, and a killed server keeps what the kernel has.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A running server. `url` names our role's own database, empty."""

    url: str = field(repr=False)
    admin_url: str = field(repr=False)

    def create(self, template: str = "template1", *, name: str = "") -> str:
        """Make a database owned by our role; return its URL."""
        name = name or f"test_{next(_numbers)}"
        run(self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER ignite'))
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove the database of `url`, ending its sessions."""
        run(self._execute(f'DROP DATABASE "{make_url(url).database}" WITH (FORCE)'))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(dsn=self.admin_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One embedded Postgres a worker, on a unix socket."""
    with embedded("postgres", _FAST) as answer:
        yield PostgresServer(url=answer["url"], admin_url=answer["admin_url"])


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated database that nobody is connected to."""
    run(migrate(postgres_server.create(name="migrated")))
    return "migrated"


@pytest.fixture
def database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database for one test."""
    url = postgres_server.create(migrated_template)
    yield url
    postgres_server.drop(url)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database without any table, for tests of migrations."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="session")
def postgres_container_url() -> Iterator[str]:
    """The URL of an empty database of a Postgres in a container."""
    if not docker_answers():
        pytest.skip("needs Docker for a Postgres container")
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer("postgres:16-alpine", driver=None) as container:
        yield container.get_connection_url()
