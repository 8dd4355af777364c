"""A real spawner as a process of its own, and a client of it.

`Spawner` starts it on a data directory of the test's; `Client` says the calls in the words of the
tests. Apps are real handlers behind the real runtime.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import grpc
import pytest

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc
from ignite.layout import Layout
from ignite.sandbox.cgroups import ControlGroups, find_controllers
from ignite.sandbox.tmpfs import is_mount_point, unmount

_MAIN = """
import asyncio, logging, sys
from pathlib import Path
from ignite.layout import Layout
from ignite.lifecycle import stop_on_signals, supervise
from ignite.settings import Settings
from ignite.spawner.main import components

async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    tiers = await asyncio.to_thread(components, Settings.load(), Layout(data=Path(sys.argv[1])))
    await supervise(tiers, stop=stop, on_ready=lambda: print("ready", flush=True))

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""
_numbers = count(1)
USER = "nobody"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")


@dataclass
class Spawner:
    """One spawner process on one data directory."""

    data: Path
    env: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    python: tuple[str, ...] = (sys.executable,)
    owner: int = 0

    @property
    def layout(self) -> Layout:
        return Layout(data=self.data)

    def start(self) -> None:
        self.data.mkdir(mode=0o711, exist_ok=True)
        for folder in (self.layout.builds, self.layout.artifacts, self.layout.run):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (self.data, *self.data.iterdir(), self.layout.run):
            os.chown(folder, self.owner, self.owner)
        with (self.data / "spawner.log").open("a") as log:
            self.process = subprocess.Popen(
                [*self.python, "-c", _MAIN, str(self.data)],
                env={
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    # A user that every machine has, and who owns nothing.
                    "IGNITE__SERVER__USER": USER,
                    **self.env,
                },
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd="/",
            )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            self.end()
            raise AssertionError((self.data / "spawner.log").read_text())

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def close(self) -> None:
        """End it and remove what it keeps outside the data directory."""
        if self.process is not None and self.process.poll() is None:
            self.end()
        groups = ControlGroups(self.layout.run.name)
        for group in groups.find():
            assert group.remove(), group.name
        groups.close()
        if is_mount_point(self.layout.replica_sockets):
            unmount(self.layout.replica_sockets)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def groups(self) -> list[Path]:
        """Return the folders of this spawner's control groups, as they are at this moment."""
        found = []
        for root in {hierarchy.root for hierarchy in find_controllers().values()}:
            base = root / "ignite" / self.layout.run.name
            with contextlib.suppress(FileNotFoundError):
                found += [base / entry.name for entry in os.scandir(base) if entry.is_dir()]
        return found

    def pids(self, prefix: str = "") -> set[int]:
        """Return the processes in groups whose name begins so; one that goes is not there."""
        found: set[int] = set()
        for folder in self.groups():
            if folder.name.startswith(prefix):
                with contextlib.suppress(OSError):
                    found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
        return found

    def app(self, code: str, name: str = "") -> str:
        """Write an artifact; return its path."""
        folder = self.layout.artifacts / (name or f"app-{next(_numbers)}")
        folder.mkdir(mode=0o755)
        (folder / "handler.py").write_text(dedent(code))
        return str(folder)

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        async with grpc.aio.insecure_channel(f"unix:{self.layout.spawner_socket}") as channel:
            yield Client(self, replicas_pb2_grpc.ReplicaServiceStub(channel))


@dataclass
class Client:
    """Calls the spawner."""

    spawner: Spawner
    stub: Any

    async def start(self, artifact: str, **fields: Any) -> str:
        """Ask for a replica; return its id."""
        replica_id = f"r{next(_numbers)}-{time.time_ns()}"
        spec: dict[str, Any] = {
            "replica_id": replica_id,
            "workload_key": "acme/app@1#0",
            "organization_name": "acme",
            "organization_id": "org-1",
            "app_name": "app",
            "version": 1,
            "runtime": pb.LanguageRuntime(language="python"),
            "artifact_path": artifact,
            "memory_mb": 128,
            "cpu_millicores": 1000,
            "timeout_secs": 30,
            "drain_grace_secs": 5,
        }
        request = pb.StartReplicaRequest(spec=pb.ReplicaSpec(**{**spec, **fields}))
        await self.stub.StartReplica(request)
        return str(fields.get("replica_id", replica_id))

    async def until(self, replica_id: str, *states: int, within: float = 20) -> pb.ReplicaStatus:
        """Wait for one of `states`; ends are always waited for."""
        watch = self.stub.WatchReplicas(pb.WatchReplicasRequest())
        last: pb.ReplicaStatus | None = None
        wanted = {*states, pb.REPLICA_STATE_EXITED, pb.REPLICA_STATE_FAILED}
        try:
            async with asyncio.timeout(within):
                async for changes in watch:
                    for status in changes.replicas:
                        if status.replica_id == replica_id:
                            last = status
                            if last.state in wanted:
                                return last
        except TimeoutError:
            raise AssertionError(f"{replica_id} did not get there, last: {last}") from None
        finally:
            watch.cancel()
        raise AssertionError("the watch ended")

    async def ready(self, artifact: str, **fields: Any) -> pb.ReplicaStatus:
        """Start a replica and wait until it serves."""
        status = await self.until(await self.start(artifact, **fields), pb.REPLICA_STATE_READY)
        assert status.state == pb.REPLICA_STATE_READY, status
        return status

    async def ended(self, replica_id: str, within: float = 20) -> pb.ReplicaStatus:
        """Wait until it is gone."""
        return await self.until(replica_id, within=within)

    async def stop(self, replica_id: str, grace_secs: int | None = None) -> pb.ReplicaStatus:
        """Stop a replica and wait until it is gone."""
        await self.stub.StopReplica(
            pb.StopReplicaRequest(replica_id=replica_id, grace_secs=grace_secs)
        )
        return await self.ended(replica_id)

    async def logs(self, *replica_ids: str, limit: int = 1000) -> list[tuple[str, str]]:
        request = pb.StreamReplicaLogsRequest(replica_ids=replica_ids, limit=limit)
        return [(line.stream, line.message) async for line in self.stub.StreamReplicaLogs(request)]

    async def build(self, **fields: Any) -> tuple[list[tuple[str, str]], pb.BuildResult]:
        """Run a compile to its end."""
        lines: list[tuple[str, str]] = []
        call = self.stub.RunBuild(pb.RunBuildRequest(spec=self.build_spec(**fields)))
        async for response in call:
            if response.WhichOneof("output") == "result":
                return lines, response.result
            lines.append((response.line.stream, response.line.message))
        raise AssertionError("no result")

    def build_spec(self, **fields: Any) -> pb.BuildSpec:
        number = next(_numbers)
        folder = self.spawner.layout.builds / f"b{number}"
        (folder / "src").mkdir(mode=0o755, parents=True)
        (folder / "out").mkdir(mode=0o755)
        spec: dict[str, Any] = {
            "build_id": f"b{number}-{time.time_ns()}",
            "organization_name": "acme",
            "organization_id": "org-1",
            "runtime": pb.LanguageRuntime(language="python"),
            "source_path": str(folder / "src"),
            "output_path": str(folder / "out"),
            "timeout_secs": 30,
            "memory_mb": 256,
            "cpu_millicores": 2000,
        }
        return pb.BuildSpec(**{**spec, **fields})


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    """One spawner for the tests of a module."""
    made = Spawner(tmp_path_factory.mktemp("spawner") / "data")
    made.start()
    yield made
    made.close()


# Settings by which every replica of a spawner starts in one way.
WAYS: Mapping[str, Mapping[str, str]] = {
    "pool": {},
    "fork": {"IGNITE__RUNTIME__WARM_POOL_SIZE": "0"},
    "bwrap": {"IGNITE__RUNTIME__FORK_SERVER": "false"},
}


@pytest.fixture(scope="module", params=WAYS)
def spawner_of_each_way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spawner]:
    """A spawner for the tests of a module, once for each way of starting a replica."""
    made = Spawner(tmp_path_factory.mktemp("spawner") / "data", env=WAYS[request.param])
    made.start()
    yield made
    made.close()
    log = (made.data / "spawner.log").read_text()
    assert "another way" not in log, log
    assert "does not start" not in log, log
    assert ("fork server started" in log) == (request.param != "bwrap")


@pytest.fixture
async def client(spawner: Spawner) -> AsyncIterator[Client]:
    """A client of the module's spawner."""
    async with spawner.client() as made:
        yield made


async def call(status: pb.ReplicaStatus, body: bytes = b"{}", *, within: float = 20) -> bytes:
    """POST to a replica over its socket; return the answer with its head."""
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_unix_connection(status.unix_path)
        try:
            head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
