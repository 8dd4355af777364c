"""A spawner that dies takes its sandboxes along; the next one finds nothing of them left."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.spawner import WAYS, Spawner, call, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.sandbox.tmpfs import is_mount_point

pytestmark = [needs_root, needs_bwrap]

APP = "def handler(body, context):\n    return 'hello'\n"


@pytest.fixture(params=WAYS)
def spawner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Spawner]:
    made = Spawner(tmp_path / "data", env=WAYS[request.param])
    made.start()
    yield made
    made.close()


class TestKilled:
    async def test_its_replicas_die_at_once(self, spawner: Spawner) -> None:
        async with spawner.client() as client:
            replicas = [await client.ready(spawner.app(APP)) for _ in range(2)]
        spawner.end(signal.SIGKILL)
        for replica in replicas:
            _wait_until_gone(replica.pid)
        _wait_until_empty(spawner)

    async def test_the_next_one_sweeps_and_serves(self, spawner: Spawner) -> None:
        async with spawner.client() as client:
            old = await client.ready(spawner.app(APP))
        spawner.end(signal.SIGKILL)
        spawner.start()
        assert [group for group in spawner.groups() if group.name[0] != "."] == []
        assert os.listdir(spawner.layout.replica_sockets) == []
        assert not (spawner.layout.replicas / old.replica_id / "state.json").exists()
        async with spawner.client() as client:
            listed = await client.stub.ListReplicas(pb.ListReplicasRequest())
            assert list(listed.replicas) == []
            new = await client.ready(spawner.app(APP))
            assert b"hello" in await call(new)

    async def test_its_replicas_logs_stay_readable(self, spawner: Spawner) -> None:
        async with spawner.client() as client:
            code = "print('remember me', flush=True)\n" + APP
            old = await client.ready(spawner.app(code))
        spawner.end(signal.SIGKILL)
        spawner.start()
        async with spawner.client() as client:
            assert ("stdout", "remember me") in await client.logs(old.replica_id)

    async def test_a_recorded_pid_that_is_another_process_now_is_spared(
        self, spawner: Spawner
    ) -> None:
        spawner.end(signal.SIGKILL)
        folder = spawner.layout.replicas / "old"
        folder.mkdir()
        (folder / "state.json").write_text(f'{{"pid": {os.getpid()}, "started_ticks": 1}}')
        spawner.start()
        assert not (folder / "state.json").exists()


class TestStopped:
    async def test_replicas_are_ended_and_nothing_is_left(self, spawner: Spawner) -> None:
        async with spawner.client() as client:
            replica = await client.ready(spawner.app(APP))
            # One that watches does not hold it up.
            watch = client.stub.WatchReplicas(pb.WatchReplicasRequest())
            await watch.read()
            began = time.monotonic()
            await asyncio.to_thread(spawner.end)
            watch.cancel()
        assert spawner.process is not None
        assert spawner.process.returncode == 0
        assert time.monotonic() - began < 8
        _wait_until_gone(replica.pid)
        assert spawner.groups() == []
        assert not spawner.layout.spawner_socket.exists()
        assert not is_mount_point(spawner.layout.replica_sockets)


class TestRefused:
    def test_a_socket_folder_that_is_a_link_is_not_used(
        self, spawner: Spawner, tmp_path: Path
    ) -> None:
        spawner.end()
        spawner.layout.replica_sockets.rmdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "kept").touch()
        spawner.layout.replica_sockets.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(AssertionError, match="not a folder of ours"):
            spawner.start()
        assert (tmp_path / "elsewhere" / "kept").exists()


class TestSettings:
    async def test_required_isolation_that_is_not_there_refuses(self, tmp_path: Path) -> None:
        made = Spawner(
            tmp_path / "other",
            env={"IGNITE__RUNTIME__REQUIRE_ISOLATION": "1", "IGNITE__RUNTIME__EGRESS": "host"},
        )
        made.start()
        try:
            async with made.client() as client:
                report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
                assert not report.sufficient
                missing = [feature.name for feature in report.features if not feature.enforced]
                assert missing == ["network"]
                with pytest.raises(Exception, match="network"):
                    await client.start(made.app(APP))
        finally:
            made.close()

    async def test_egress_host_gives_the_network_and_its_files(self, tmp_path: Path) -> None:
        made = Spawner(tmp_path / "other", env={"IGNITE__RUNTIME__EGRESS": "host"})
        made.start()
        try:
            async with made.client() as client:
                code = """
                    import os
                    def handler(body, context):
                        names = open("/proc/net/dev").read()
                        return [os.path.exists("/etc/resolv.conf"), names]
                """
                replica = await client.ready(made.app(code))
                answer = await call(replica)
                assert b"[true" in answer
                for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
                    assert line.split(":")[0].strip().encode() in answer
        finally:
            made.close()


def _wait_until_empty(spawner: Spawner) -> None:
    deadline = time.monotonic() + 10
    while spawner.pids():
        assert time.monotonic() < deadline, "processes outlive the spawner"
        time.sleep(0.02)


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"{pid} outlives the spawner"
        time.sleep(0.02)
