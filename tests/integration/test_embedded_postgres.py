"""The embedded Postgres: crashes, leftovers and locked doors, with the real server."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from tests.support.postgres import PostgresServer
from tests.support.servers import serving

from ignite.db.database import Database
from ignite.db.embedded import DataOfAnotherMajor, EmbeddedPostgres
from ignite.db.migrate import migrate
from ignite.domain.errors import Unavailable
from ignite.layout import Layout
from ignite.settings import DatabaseSettings, LogSettings


@pytest.fixture
def data(short_folder: Path) -> Path:
    """A data directory whose run folder is removed afterwards."""
    return short_folder / "data"


async def execute(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn=url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


@contextmanager
def started(*argv: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that no supervisor of ours started, as the server's user."""
    ids: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
    process = subprocess.Popen(
        argv, env={}, start_new_session=True, **(ids if os.geteuid() == 0 else {})
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def exists(path: Path) -> None:
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.01)


def postmaster(data: Path) -> int | None:
    try:
        return int((data / "postgres/postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None


async def test_committed_rows_survive_kill_of_everything_and_uncommitted_do_not(data: Path) -> None:
    with serving("postgres", data) as server:
        await execute(server["url"], "CREATE TABLE t (n int)")
        await execute(server["url"], "INSERT INTO t VALUES (1)")
        open_transaction = await asyncpg.connect(dsn=server["url"])
        await open_transaction.execute("BEGIN; INSERT INTO t VALUES (2)")
        first = postmaster(data)
        # The supervisor first: the parent-death signal takes the postmaster, nobody cleans up.
        os.kill(server["supervisor"], signal.SIGKILL)
        open_transaction.terminate()
    assert (data / "postgres/postmaster.pid").exists()
    with serving("postgres", data) as server:
        assert postmaster(data) != first
        rows = await execute(server["url"], "SELECT n FROM t")
        assert [row["n"] for row in rows] == [1]


async def test_killed_postmaster_is_started_again_and_the_pool_reconnects(data: Path) -> None:
    with serving("postgres", data) as server:
        database = Database(server["url"], DatabaseSettings(pool_size=2))
        await database.check()
        os.kill(server["pid"], signal.SIGKILL)
        async with asyncio.timeout(60):
            # The old backends answer until they notice; what counts is the new postmaster.
            while (  # noqa: ASYNC110 - another process
                postmaster(data) in (None, server["pid"]) or not await answers(database)
            ):
                await asyncio.sleep(0.05)
        await database.close()


async def answers(database: Database) -> bool:
    try:
        await database.check()
    except (Unavailable, asyncpg.PostgresError):  # not there, or just starting up
        return False
    return True


async def test_postmaster_of_a_lost_supervisor_is_ended_before_the_next_start(data: Path) -> None:
    with serving("postgres", data) as server:
        await execute(server["url"], "CREATE TABLE t (n int)")
    argv = EmbeddedPostgres(Layout(data=data), LogSettings(), None).child().argv
    with started(*argv) as orphan:
        await exists(data / "postgres/postmaster.pid")
        with serving("postgres", data) as server:
            assert orphan.wait(1) == -signal.SIGKILL
            assert await execute(server["url"], "SELECT n FROM t") == []


async def test_pid_file_naming_a_stranger_neither_stops_the_start_nor_hurts_the_stranger(
    data: Path,
) -> None:
    with serving("postgres", data):
        content = (data / "postgres/postmaster.pid").read_text()
    with started("/bin/sleep", "100") as stranger:
        lines = content.split("\n")
        (data / "postgres/postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]))
        with serving("postgres", data) as server:
            await execute(server["url"], "SELECT 1")
        assert stranger.poll() is None


async def test_interrupted_initdb_is_thrown_away(data: Path) -> None:
    half = data / ".postgres-init-00000000"
    os.makedirs(half)
    (half / "PG_VERSION").write_text("18\n")
    with serving("postgres", data) as server:
        await execute(server["url"], "SELECT 1")
    assert not half.exists()


async def test_data_of_another_major_version_is_refused_in_one_line(data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres/PG_VERSION").write_text("15\n")
    server = EmbeddedPostgres(Layout(data=data), LogSettings(), None)
    with pytest.raises(DataOfAnotherMajor, match=r"holds data of Postgres 15.*ships Postgres 18"):
        await server.prepare()


async def test_nobody_gets_in_without_the_password_and_nothing_listens_on_a_port(
    postgres_server: PostgresServer,
) -> None:
    wrong = postgres_server.url.replace("ignite:", "ignite:0", 1)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await execute(wrong, "SELECT 1")
    rows = await execute(postgres_server.admin_url, "SHOW listen_addresses")
    assert rows[0][0] == ""
    rows = await execute(postgres_server.url, "SHOW is_superuser")
    assert rows[0][0] == "off"


async def test_passwords_and_sockets_are_closed_to_others_and_statements_stay_out_of_the_log(
    data: Path,
) -> None:
    with serving("postgres", data) as server:
        await execute(server["url"], "CREATE TABLE t (name text UNIQUE)")
        await execute(server["url"], "INSERT INTO t VALUES ('canary-of-a-secret')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await execute(server["url"], "INSERT INTO t VALUES ('canary-of-a-secret')")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data / "keys").iterdir()}
        sockets = Layout(data=data).postgres_socket_dir
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert modes == {"postgres-ignite": 0o600, "postgres-postgres": 0o600}
    log = (data / "logs/postgres.log").read_text()
    assert "duplicate key" in log
    assert "canary-of-a-secret" not in log


async def test_server_settings_suit_unicode_and_checksums(postgres_server: PostgresServer) -> None:
    rows = await execute(
        postgres_server.url,
        "SELECT current_setting('server_encoding') AS encoding, datlocale AS locale, "
        "current_setting('data_checksums') AS checksums, upper('äß') AS text "
        "FROM pg_database WHERE datname = 'ignite'",
    )
    assert dict(rows[0]) == {
        "encoding": "UTF8",
        "locale": "C.UTF-8",
        "checksums": "on",
        "text": "Äß",
    }


async def test_cloned_databases_are_migrated_and_strangers_to_each_other(
    postgres_server: PostgresServer, migrated_template: str, database_url: str
) -> None:
    other = postgres_server.create(migrated_template)
    try:
        assert await execute(database_url, "SELECT 1 FROM alembic_version")
        await execute(database_url, "CREATE TABLE mine (n int)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await execute(other, "SELECT * FROM mine")
    finally:
        postgres_server.drop(other)


async def test_it_runs_where_nobody_is_root(data: Path) -> None:
    with serving("postgres", data, user="all") as server:
        run = Path(make_url(server["url"]).query["host"]).parent  # type: ignore[arg-type]
        await execute(server["url"], "CREATE TABLE t (n int)")
        uid = os.stat(data / "postgres").st_uid
        assert uid == (65534 if os.geteuid() == 0 else os.geteuid())
        assert str(run).startswith(f"/tmp/ignite-{uid}-")
    shutil.rmtree(run)


@pytest.fixture(params=["embedded", "container"])
def any_database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of the embedded server, or of one in a container."""
    name = "empty_database_url" if request.param == "embedded" else "postgres_container_url"
    url: str = request.getfixturevalue(name)
    return url


async def test_schema_and_stores_work_on_any_postgres(any_database_url: str) -> None:
    await migrate(any_database_url)
    await migrate(any_database_url)
    database = Database(any_database_url, DatabaseSettings(pool_size=2))
    try:
        await database.check()
        assert await execute(any_database_url, "SELECT version_num FROM alembic_version")
    finally:
        await database.close()
