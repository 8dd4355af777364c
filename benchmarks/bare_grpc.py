"""The least that grpc.aio can do: the generated stubs, no interceptors, no checks, raw asyncpg.

A process of its own. It reads its orders as JSON from stdin, prints its port, and serves until
stdin ends. Given frames it streams them; given a database it runs the statements that the real
service runs for the same call, and answers with what the real service answered.
"""

import asyncio
import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import grpc.aio

from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

POOL = 10

GET = """
SELECT apps.*, code_kind, runtime, blob, size_bytes, is_archive, build_args, code_hash, build_id
FROM apps LEFT JOIN versions
  ON versions.app_id = apps.id AND versions.number = apps.active_version
WHERE apps.organization = $1 AND apps.name = $2
"""
LIST = """
SELECT organization, name, config ->> 'description', (config ->> 'tier')::int, config ->> 'ports',
       state, active_version, created_at, updated_at
FROM apps WHERE organization = $1 AND name > $2 ORDER BY name LIMIT $3
"""
LOCK = "SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE"
COUNT = "SELECT count(*) FROM apps WHERE organization = $1"
INSERT = """
INSERT INTO apps (organization_id, organization, name, config, state)
VALUES ($1, $2, $3, $4::jsonb, 8) ON CONFLICT (organization, name) DO NOTHING RETURNING *
"""
LABELS = """
WITH dropped AS (DELETE FROM hostnames WHERE app_id = $1 AND label <> ALL ($2::text[]))
INSERT INTO hostnames (label, app_id, port)
SELECT label, $1, port FROM unnest($2::text[], $3::int[]) AS wanted (label, port) ORDER BY label
ON CONFLICT (label) DO UPDATE SET port = excluded.port
WHERE hostnames.app_id = excluded.app_id
RETURNING label
"""
NOTIFY = "SELECT pg_notify('ignite_apps', $1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A running one."""

    port: int
    pid: int


@contextmanager
def bare_grpc(
    *,
    frames: Mapping[str, Sequence[pb.InvokeResponse]] | None = None,
    database: str = "",
    app: str = "",
    answers: Mapping[str, Any] | None = None,
) -> Iterator[Bare]:
    """Run one. `frames` by the body of the call; `answers` by method; `app` lends its config."""
    orders = {
        "frames": {
            body: [_pack(frame) for frame in sequence] for body, sequence in (frames or {}).items()
        },
        "database": database,
        "app": app,
        "answers": {method: _pack(answer) for method, answer in (answers or {}).items()},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_grpc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()
        yield Bare(port=int(process.stdout.readline()), pid=process.pid)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _pack(message: Any) -> str:
    return b64encode(message.SerializeToString()).decode()


class _Streams(pb_grpc.ComputeServiceServicer):
    def __init__(self, frames: Mapping[bytes, Sequence[pb.InvokeResponse]]) -> None:
        self._frames = frames

    async def Invoke(  # noqa: N802 - the wire's name
        self, request: pb.InvokeRequest, _context: Any
    ) -> AsyncIterator[pb.InvokeResponse]:
        for frame in self._frames[request.body]:
            yield frame


class _Queries(pb_grpc.ComputeServiceServicer):
    def __init__(self, pool: "asyncio.Queue[Any]", config: Any, answers: Mapping[str, Any]) -> None:
        self._pool = pool
        self._config = config
        self._answers = answers

    async def GetApp(self, request: pb.GetAppRequest, _context: Any) -> Any:  # noqa: N802
        async with self._connection() as connection:
            await connection.fetchrow(GET, request.organization_name, request.app_name)
        return self._answers["GetApp"]

    async def ListApps(self, request: pb.ListAppsRequest, _context: Any) -> Any:  # noqa: N802
        async with self._connection() as connection:
            await connection.fetch(LIST, request.organization_name, "", request.limit + 1)
        return self._answers["ListApps"]

    async def CreateApp(self, request: pb.CreateAppRequest, _context: Any) -> Any:  # noqa: N802
        organization, like = request.organization_name, self._config
        async with self._connection() as connection, connection.transaction():
            await connection.fetch(LOCK, like["organization_id"])
            await connection.fetchval(COUNT, organization)
            app = await connection.fetchrow(
                INSERT, like["organization_id"], organization, request.name, like["config"]
            )
            await connection.fetch(LABELS, app["id"], [f"{request.name}-{organization}"], [80])
            await connection.fetchval(NOTIFY, str(app["id"]))
        return self._answers["CreateApp"]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await self._pool.get()
        try:
            yield connection
        finally:
            self._pool.put_nowait(connection)


async def _main() -> None:
    orders = json.loads(sys.stdin.readline())
    server = grpc.aio.server()
    pb_grpc.add_ComputeServiceServicer_to_server(await _servicer(orders), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace=0)


async def _servicer(orders: Mapping[str, Any]) -> pb_grpc.ComputeServiceServicer:
    if not orders["database"]:
        return _Streams(
            {
                body.encode(): [pb.InvokeResponse.FromString(b64decode(one)) for one in sequence]
                for body, sequence in orders["frames"].items()
            }
        )
    pool: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(POOL):
        pool.put_nowait(await asyncpg.connect(orders["database"]))
    connection = await pool.get()
    config = await connection.fetchrow("SELECT * FROM apps WHERE name = $1", orders["app"])
    pool.put_nowait(connection)
    answers = {
        method: getattr(pb, f"{method}Response").FromString(b64decode(answer))
        for method, answer in orders["answers"].items()
    }
    return _Queries(pool, config, answers)


if __name__ == "__main__":
    asyncio.run(_main())
