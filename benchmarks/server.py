"""A server of the bench's own: started as a person would, in a folder that goes with it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import grpc

from benchmarks.processes import server_roles
from ignite.layout import Layout
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

READY_SECS = 120.0
STOP_SECS = 60.0
ATTEMPTS = 3
ADDRESSES = {
    "IGNITE_API_LISTEN_ADDR": "127.0.0.1:0",
    "IGNITE_ADMIN_LISTEN_ADDR": "127.0.0.1:0",
    "IGNITE_HTTP_LISTEN_ADDR": "127.0.0.1:0",
}
# More apps than an organisation may have by default.
DEFAULTS = {"IGNITE__LIMITS__APPS_PER_ORGANIZATION": "1000000"}


class BenchServer:
    """`ignite serve` on loopback."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self.layout = Layout(data)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the server and of commands beside it; nothing of ours from outside."""
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("IGNITE", "DODIL"))
        }
        data = {"IGNITE_DATA_DIR": str(self.layout.data)}
        return {**outside, **ADDRESSES, **DEFAULTS, **data, **self._environment}

    def start(self) -> float:
        """Start it; return the seconds until a client could use it.

        A free port may be taken by somebody else before the server has it: then once more.
        """
        for attempt in range(ATTEMPTS):
            began = time.monotonic()
            process = self._spawn()
            while process.poll() is None and time.monotonic() - began < READY_SECS:
                if self.layout.connection_file.exists():
                    return time.monotonic() - began
                time.sleep(0.01)
            words = self.words()
            self.stop()
            if "Failed to bind" not in words or attempt == ATTEMPTS - 1:
                break
        raise RuntimeError(f"the server did not start:\n{words}")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with (self.layout.data.parent / "server.out").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ignite", "serve", "--data-dir", str(self.layout.data)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def stop(self) -> None:
        """Stop it and wait."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def words(self) -> str:
        """Return the end of what it printed and logged."""
        paths = [self.layout.data.parent / "server.out", *sorted(self.layout.logs.glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in paths
            if path.exists()
        )

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """Its processes, as they are now."""
        assert self._process is not None
        return server_roles(self._process.pid)

    @property
    def connection(self) -> dict[str, str]:
        """What it leaves for clients; the token in it is good now."""
        found: dict[str, str] = json.loads(self.layout.connection_file.read_text())
        return found

    @property
    def org(self) -> str:
        """The development organisation."""
        return self.connection["org"]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The bearer of a call."""
        return (("authorization", f"Bearer {self.connection['token']}"),)

    @property
    def http_port(self) -> int:
        """Port of the HTTP listener."""
        return int(self.connection["http"].rpartition(":")[2])

    @property
    def database_url(self) -> str:
        """The embedded Postgres, as our own role."""
        password = (self.layout.keys / "postgres-ignite").read_text().strip()
        return f"postgresql://ignite:{password}@/ignite?host={self.layout.postgres_socket_dir}"

    @contextmanager
    def compute(self) -> Iterator[ComputeServiceStub]:
        """ComputeService."""
        with grpc.insecure_channel(self.connection["grpc"]) as channel:
            yield ComputeServiceStub(channel)

    def host_of(self, app: str) -> str:
        """Return an app's host name."""
        return f"{app}-{self.org}.{self.connection['base_domain']}"

    def head(self, app: str, path: str = "/bench", *, host: str = "") -> bytes:
        """Return the head of a GET with a good token, as it goes on the wire."""
        return (
            f"GET {path} HTTP/1.1\r\nhost: {host or self.host_of(app)}\r\n"
            f"authorization: {self.metadata[0][1]}\r\naccept: */*\r\n\r\n"
        ).encode()

    def deploy(
        self, app: str, handler: str, *flags: str, modules: Mapping[str, str] | None = None
    ) -> None:
        """Deploy an app, most often of one file, and wait until it serves."""
        with tempfile.TemporaryDirectory() as folder:
            for name, code in {"handler.py": handler, **(modules or {})}.items():
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_text(code)
            done = subprocess.run(
                [sys.executable, "-m", "ignite", "app", "deploy", app, "--code", folder, *flags],
                env=self.environment,
                capture_output=True,
                timeout=120,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"deploy failed: {done.stderr.decode()}\n{self.words()}")

    def register_sleeping(self, like: str, count: int, *, prefix: str = "sleep") -> None:
        """Register `count` copies of a deployed app, by rows: they serve after the next start."""
        asyncio.run(self._copy(like, count, prefix))

    async def _copy(self, like: str, count: int, prefix: str) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            async with connection.transaction():
                await connection.execute(_COPY_APPS, self.org, like, prefix, count)
                await connection.execute(_COPY_VERSIONS, self.org, like, prefix)
                await connection.execute(_ADD_HOSTNAMES, self.org, prefix)
            await connection.execute("ANALYZE apps, versions, hostnames")
        finally:
            await connection.close()


_COPY_APPS = """
INSERT INTO apps (organization_id, organization, name, config, state, active_version,
                  target_version, last_version, generation, observed_generation)
SELECT organization_id, organization, $3 || '-' || number, config, 3, 1, 1, 1, 1, 1
FROM apps, generate_series(0, $4::int - 1) AS number
WHERE organization = $1 AND name = $2
"""
_COPY_VERSIONS = """
INSERT INTO versions (app_id, number, status, code_kind, runtime, blob, size_bytes, is_archive,
                      build_args, code_hash, artifact, config)
SELECT copy.id, 1, v.status, v.code_kind, v.runtime, v.blob, v.size_bytes, v.is_archive,
       v.build_args, v.code_hash, v.artifact, v.config
FROM apps AS copy, apps AS original JOIN versions AS v ON v.app_id = original.id
WHERE copy.organization = $1 AND starts_with(copy.name, $3 || '-')
  AND original.organization = $1 AND original.name = $2 AND v.number = 1
"""
_ADD_HOSTNAMES = """
INSERT INTO hostnames (label, app_id, port)
SELECT name || '-' || organization, id, 80 FROM apps
WHERE organization = $1 AND starts_with(name, $2 || '-')
"""


@contextmanager
def bench_server(**environment: str) -> Iterator[BenchServer]:
    """A server that is not started yet, stopped and removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="ignite-bench-"))
    home.chmod(0o711)
    server = BenchServer(home / "data", environment)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(server.layout.run, ignore_errors=True)


@contextmanager
def running_server(**environment: str) -> Iterator[BenchServer]:
    """A server that is ready."""
    with bench_server(**environment) as server:
        server.start()
        yield server
