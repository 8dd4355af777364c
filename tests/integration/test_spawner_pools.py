"""Warm pools of a real spawner: filled, taken once, remembered, and never in anybody's way."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.support.spawner import WAYS, Client, Spawner, call, client, needs_bwrap, needs_root

from ignite.backends.pools import SpawnerWarmPools
from ignite.domain.errors import FailedPrecondition, InvalidArgument
from ignite.domain.versions import Language, Runtime
from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap]

APP = "def handler(body, context):\n    return 'hello'\n"
PYTHON = Runtime(language=Language.PYTHON, version="3.11", target="")


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Spawner]:
    made = Spawner(tmp_path / "data")
    made.start()
    yield made
    made.close()


async def filled(client: Client, size: int, *, version: str = "") -> pb.WarmPool:
    """Wait until there is a pool of `size` that is full."""
    async with asyncio.timeout(20):
        while True:
            found = await client.stub.ListWarmPools(pb.ListWarmPoolsRequest())
            pool: pb.WarmPool
            for pool in found.pools:
                if pool.ready == pool.size == size and version in pool.runtime.version:
                    return pool
            await asyncio.sleep(0.02)


def waiting(spawner: Spawner) -> set[str]:
    """Return the first process of each sandbox that was made before its app was known."""
    pids = {str(pid) for pid in spawner.pids(".pool-")}
    return {pid for pid in pids if field(pid, "NSpid").endswith("\t1")}


def field(pid: str, name: str) -> str:
    """Return a line of a process' status, "" once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return status.partition(f"{name}:")[2].splitlines()[0].strip()


class TestSizes:
    async def test_the_usual_python_has_a_pool_by_itself(self, client: Client) -> None:
        pool = await filled(client, 2)
        assert pool.runtime.language == "python"

    async def test_a_size_is_reached_in_both_directions(
        self, spawner: Spawner, client: Client
    ) -> None:
        async with grpc.aio.insecure_channel(f"unix:{spawner.layout.spawner_socket}") as channel:
            pools = SpawnerWarmPools(channel)
            assert (await pools.set_size(PYTHON, 4)).size == 4
            await filled(client, 4)
            assert len(waiting(spawner)) == 4
            await pools.set_size(PYTHON, 1)
            await filled(client, 1)
            async with asyncio.timeout(10):
                while len(waiting(spawner)) > 1:  # noqa: ASYNC110 - the kernel tells nobody
                    await asyncio.sleep(0.02)
            await pools.set_size(PYTHON, 0)
            assert await pools.list() == ()

    async def test_a_size_outlives_the_spawner(self, spawner: Spawner, client: Client) -> None:
        await client.stub.SetWarmPoolSize(
            pb.SetWarmPoolSizeRequest(runtime=pb.LanguageRuntime(language="python"), size=3)
        )
        spawner.end()
        assert waiting(spawner) == set()
        spawner.start()
        async with spawner.client() as again:
            await filled(again, 3)

    async def test_what_cannot_be_is_refused(self, spawner: Spawner) -> None:
        async with grpc.aio.insecure_channel(f"unix:{spawner.layout.spawner_socket}") as channel:
            pools = SpawnerWarmPools(channel)
            with pytest.raises(InvalidArgument, match="size"):
                await pools.set_size(PYTHON, 1_000_000)
            old = Runtime(language=Language.PYTHON, version="3.2", target="")
            with pytest.raises(FailedPrecondition, match=r"3\.2"):
                await pools.set_size(old, 1)

    async def test_without_a_fork_server_there_is_none(self, tmp_path: Path) -> None:
        made = Spawner(tmp_path / "other", env=WAYS["bwrap"])
        made.start()
        try:
            path = f"unix:{made.layout.spawner_socket}"
            async with grpc.aio.insecure_channel(path) as channel:
                pools = SpawnerWarmPools(channel)
                assert await pools.list() == ()
                with pytest.raises(FailedPrecondition, match="fork server"):
                    await pools.set_size(PYTHON, 1)
        finally:
            made.close()


class TestTaken:
    async def test_each_entry_serves_one_app_and_is_replaced(
        self, spawner: Spawner, client: Client
    ) -> None:
        await filled(client, 2)
        before = waiting(spawner)
        first = await client.ready(spawner.app(APP))
        assert str(first.pid) in before
        assert b"hello" in await call(first)
        await client.stop(first.replica_id)
        await filled(client, 2)
        assert str(first.pid) not in waiting(spawner)
        second = await client.ready(spawner.app(APP))
        assert second.pid != first.pid
        await client.stop(second.replica_id)

    async def test_one_that_died_waiting_costs_no_start(
        self, spawner: Spawner, client: Client
    ) -> None:
        await filled(client, 2)
        for pid in waiting(spawner):
            os.kill(int(pid), signal.SIGKILL)
        status = await client.ready(spawner.app(APP))
        assert b"hello" in await call(status)
        await client.stop(status.replica_id)

    async def test_its_limits_are_the_apps(self, spawner: Spawner, client: Client) -> None:
        await filled(client, 2)
        code = """
            def handler(body, context):
                found = []
                for _ in range(400):
                    found.append(bytearray(1 << 20))
        """
        status = await client.ready(spawner.app(code), memory_mb=64)
        await call(status)
        assert (await client.ended(status.replica_id)).reason == "OutOfMemory"

    async def test_it_waits_without_an_app_and_its_code_has_no_power(
        self, spawner: Spawner, client: Client
    ) -> None:
        await filled(client, 2)
        for pid in waiting(spawner):
            mounts = Path(f"/proc/{pid}/mountinfo").read_text()
            assert " /app " not in mounts
            assert "/run/ignite" not in [line.split()[4] for line in mounts.splitlines()]
            (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            assert int(field(child, "CapEff"), 16) == 0
            assert field(child, "Seccomp") == "2"
            assert int(field(child, "Uid").split()[0]) >= 200_000

    async def test_many_at_once_take_what_there_is_and_fork_the_rest(
        self, spawner: Spawner, client: Client
    ) -> None:
        await filled(client, 2)
        app = spawner.app(
            "import os\ndef handler(body, context):\n    return {'pid': os.getpid()}\n"
        )
        async with asyncio.TaskGroup() as tasks:
            starts = [tasks.create_task(client.ready(app)) for _ in range(10)]
        for start in starts:
            answer = (await call(start.result())).partition(b"\r\n\r\n")[2]
            assert json.loads(answer) == {"pid": 2}
        async with asyncio.TaskGroup() as tasks:
            for start in starts:
                tasks.create_task(client.stop(start.result().replica_id))
