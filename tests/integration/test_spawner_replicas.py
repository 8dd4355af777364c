"""Replicas from start to end, by the real spawner, in the real sandbox, behind the real runtime."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import grpc
import pytest
from tests.support.spawner import (
    Client,
    Spawner,
    call,
    client,
    needs_bwrap,
    needs_root,
)
from tests.support.spawner import spawner_of_each_way as spawner

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client", "spawner"]
pytestmark = [needs_root, needs_bwrap]

HELLO = "def handler(body, context):\n    return 'hello'\n"
SLOW = """
    import time
    def handler(body, context):
        print("began", flush=True)
        time.sleep(1)
        return "done"
"""


class TestStart:
    async def test_a_replica_becomes_ready_and_answers(
        self, spawner: Spawner, client: Client
    ) -> None:
        status = await client.ready(spawner.app(HELLO))
        assert status.ready_at_ms >= status.started_at_ms
        assert b"200 OK" in await call(status)
        await client.stop(status.replica_id)

    async def test_starting_the_same_id_again_changes_nothing(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(HELLO)
        first = await client.ready(app)
        await client.start(app, replica_id=first.replica_id)
        again = await client.until(first.replica_id, pb.REPLICA_STATE_READY)
        assert again.pid == first.pid
        await client.stop(first.replica_id)

    @pytest.mark.parametrize("version", ["3.9", "3.11", "3.12"])
    async def test_the_version_asked_for_runs(
        self, spawner: Spawner, client: Client, version: str
    ) -> None:
        report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
        if version not in [found.version for found in report.interpreters]:
            pytest.skip(f"no Python {version}")
        code = (
            "import sys\ndef handler(body, context):\n    return '%d.%d' % sys.version_info[:2]\n"
        )
        runtime = pb.LanguageRuntime(language="python", version=version)
        status = await client.ready(spawner.app(code), runtime=runtime)
        assert version.encode() in await call(status)
        await client.stop(status.replica_id)

    async def test_many_at_once_all_become_ready(self, spawner: Spawner, client: Client) -> None:
        app = spawner.app(HELLO)
        async with asyncio.TaskGroup() as tasks:
            starts = [tasks.create_task(client.ready(app)) for _ in range(8)]
        statuses = [start.result() for start in starts]
        assert len({status.unix_path for status in statuses}) == 8
        async with asyncio.TaskGroup() as tasks:
            for status in statuses:
                tasks.create_task(client.stop(status.replica_id))

    async def test_one_that_closes_the_pipe_it_tells_by_is_asked(
        self, spawner: Spawner, client: Client
    ) -> None:
        code = """
            import os
            for name in os.listdir("/proc/self/fd"):
                try:
                    if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                        os.close(int(name))
                except OSError:
                    pass
            def handler(body, context):
                return "asked"
        """
        status = await client.ready(spawner.app(code))
        assert b"asked" in await call(status)
        await client.stop(status.replica_id)

    async def test_an_app_finds_no_trace_of_the_pipe(
        self, spawner: Spawner, client: Client
    ) -> None:
        code = """
            import os
            found = [name for name in os.environ if "READY" in name]
            def handler(body, context):
                return found + [
                    name for name in os.listdir("/proc/self/fd")
                    if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}")
                    and os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
                ]
        """
        status = await client.ready(spawner.app(code))
        assert (await call(status)).endswith(b"\r\n\r\n[]")
        await client.stop(status.replica_id)


class TestFailedStart:
    async def test_an_import_error_is_told_with_its_trace(
        self, spawner: Spawner, client: Client
    ) -> None:
        status = await client.ended(await client.start(spawner.app("import no_such_module\n")))
        assert status.state == pb.REPLICA_STATE_FAILED
        assert status.reason == "ImportFailed"
        assert "no_such_module" in status.message

    async def test_an_exit_while_starting_is_a_crash(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app("import os, sys\nsys.stderr.write('last words\\n')\nos._exit(9)\n")
        status = await client.ended(await client.start(app))
        assert (status.state, status.reason) == (pb.REPLICA_STATE_FAILED, "Crashed")
        assert status.exit_code == 9
        assert "last words" in status.message

    async def test_too_much_memory_while_starting_is_told(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app("x = [bytearray(1 << 20) for _ in range(400)]\n")
        status = await client.ended(await client.start(app, memory_mb=64))
        assert (status.state, status.reason) == (pb.REPLICA_STATE_FAILED, "OutOfMemory")
        assert "64 MB" in status.message

    async def test_a_message_is_bounded(self, spawner: Spawner, client: Client) -> None:
        app = spawner.app("import sys\nsys.stderr.write('x' * 100_000)\nraise SystemExit(1)\n")
        status = await client.ended(await client.start(app))
        assert len(status.message) <= 2048

    async def test_a_version_the_machine_lacks_is_refused(
        self, spawner: Spawner, client: Client
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.start(
                spawner.app(HELLO), runtime=pb.LanguageRuntime(language="python", version="3.2")
            )
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "3.2" in str(caught.value.details())


class TestEnd:
    async def test_a_request_under_way_is_finished(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(SLOW))
        answer = asyncio.ensure_future(call(status))
        await _until_logged(client, status.replica_id, "began")
        ended = await client.stop(status.replica_id)
        assert b"done" in await answer
        assert (ended.state, ended.reason) == (pb.REPLICA_STATE_EXITED, "Stopped")

    async def test_the_grace_is_a_bound(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(SLOW.replace("sleep(1)", "sleep(60)")))
        answer = asyncio.ensure_future(call(status))
        await _until_logged(client, status.replica_id, "began")
        began = time.monotonic()
        ended = await client.stop(status.replica_id, grace_secs=1)
        assert time.monotonic() - began < 5
        assert ended.exit_code == -signal.SIGKILL
        assert b"done" not in await answer

    async def test_stopping_an_unknown_replica_is_success(self, client: Client) -> None:
        await client.stub.StopReplica(pb.StopReplicaRequest(replica_id="never-was"))

    async def test_an_exit_after_ready_is_told(self, spawner: Spawner, client: Client) -> None:
        code = "import os\ndef handler(body, context):\n    os._exit(7)\n"
        status = await client.ready(spawner.app(code))
        await call(status)
        ended = await client.ended(status.replica_id)
        assert (ended.state, ended.reason) == (pb.REPLICA_STATE_EXITED, "Crashed")
        assert ended.exit_code == 7

    async def test_memory_beyond_the_limit_ends_it(self, spawner: Spawner, client: Client) -> None:
        code = "def handler(body, context):\n    x = [bytearray(1 << 20) for _ in range(400)]\n"
        status = await client.ready(spawner.app(code), memory_mb=64)
        await call(status)
        ended = await client.ended(status.replica_id)
        assert (ended.state, ended.reason) == (pb.REPLICA_STATE_EXITED, "OutOfMemory")

    async def test_nothing_is_left_but_the_log(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(HELLO))
        await client.stop(status.replica_id)
        assert not os.path.lexists(os.path.dirname(status.unix_path))
        kept = {path.name for path in (spawner.layout.replicas / status.replica_id).iterdir()}
        assert kept == {"log"}
        groups = [str(path) for path in spawner.groups()]
        assert not [path for path in groups if status.replica_id in path]

    async def test_a_listing_still_tells_why(self, spawner: Spawner, client: Client) -> None:
        ended = await client.ended(await client.start(spawner.app("1 / 0\n")))
        listed = await client.stub.ListReplicas(pb.ListReplicasRequest())
        assert ended in listed.replicas


class TestCpu:
    async def test_the_quota_holds_from_ready_on(self, spawner: Spawner, client: Client) -> None:
        code = """
            import time
            def handler(body, context):
                began, used = time.monotonic(), time.process_time()
                while time.monotonic() - began < 1:
                    pass
                return {"used": time.process_time() - used}
        """
        status = await client.ready(spawner.app(code), cpu_millicores=250)
        body = (await call(status)).partition(b"\r\n\r\n")[2]
        assert json.loads(body)["used"] < 0.5
        await client.stop(status.replica_id)


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("replica_id", "../x"),
            ("replica_id", ""),
            ("organization_id", "a/b"),
            ("memory_mb", 0),
            ("cpu_millicores", 2_000_000_000),
            ("pids_max", 1),
            ("timeout_secs", 0),
            ("health_path", "healthz"),
            ("health_path", "/a b"),
            ("health_path", "/\r\nx: y"),
            ("env", {"A=B": "c"}),
            ("env", {"A": "b\0c"}),
            ("runtime", pb.LanguageRuntime(language="cobol")),
        ],
    )
    async def test_a_wrong_field_is_refused(
        self, spawner: Spawner, client: Client, field: str, value: object
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.start(spawner.app(HELLO), **{field: value})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_a_path_outside_the_installation_is_refused(
        self, spawner: Spawner, client: Client, tmp_path: Path
    ) -> None:
        spawner.app(HELLO, name="real")
        (spawner.layout.artifacts / "link").symlink_to("/etc")
        inside = spawner.layout.artifacts
        for path in (
            "/etc",
            str(tmp_path),
            str(inside),
            f"{inside}/real/../../replicas",
            f"{inside}/link",
            f"{inside}/link/ssl",
            f"{inside}//real",
            f"{inside}/none",
            "artifacts/real",
            "",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.start(path)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, path


class TestLogs:
    async def test_both_streams_are_kept_line_by_line(
        self, spawner: Spawner, client: Client
    ) -> None:
        code = """
            import sys
            def handler(body, context):
                print("to out\\nand more")
                print("to err", file=sys.stderr)
                print("no end", end="", flush=True)
        """
        status = await client.ready(spawner.app(code))
        await call(status)
        await client.stop(status.replica_id)
        lines = await client.logs(status.replica_id)
        assert ("stdout", "to out") in lines
        assert ("stdout", "and more") in lines
        assert ("stderr", "to err") in lines
        assert ("stdout", "no end") in lines

    async def test_followers_get_lines_as_they_are_written(
        self, spawner: Spawner, client: Client
    ) -> None:
        code = "def handler(body, context):\n    print(body.decode(), flush=True)\n"
        status = await client.ready(spawner.app(code))
        follow = client.stub.StreamReplicaLogs(
            pb.StreamReplicaLogsRequest(replica_ids=[status.replica_id], follow=True)
        )
        sender = asyncio.ensure_future(_repeat(status))
        async with asyncio.timeout(10):
            async for line in follow:
                if line.message == "again":
                    break
        follow.cancel()
        sender.cancel()
        await asyncio.wait([sender])
        await client.stop(status.replica_id)

    async def test_a_flood_is_bounded_and_marked(self, spawner: Spawner, client: Client) -> None:
        code = """
            import sys
            def handler(body, context):
                for _ in range(300_000):
                    sys.stdout.write("x" * 99 + "\\n")
                return "flooded"
        """
        status = await client.ready(spawner.app(code))
        assert b"flooded" in await call(status, within=60)
        await client.stop(status.replica_id)
        folder = spawner.layout.replicas / status.replica_id
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 1024 * 1024
        lines = await client.logs(status.replica_id, limit=10_000)
        assert any(stream == "system" and "dropped" in text for stream, text in lines)


async def _repeat(status: pb.ReplicaStatus) -> None:
    while True:
        await call(status, b"again")


async def _until_logged(client: Client, replica_id: str, text: str) -> None:
    stream = client.stub.StreamReplicaLogs(
        pb.StreamReplicaLogsRequest(replica_ids=[replica_id], limit=100, follow=True)
    )
    async with asyncio.timeout(10):
        async for line in stream:
            if text in line.message:
                break
    stream.cancel()


async def test_a_replica_may_drain_as_long_as_its_app_may_take(tmp_path: Path) -> None:
    spawner = Spawner(tmp_path / "data", env={"IGNITE__RUNTIME__STOP_GRACE_SECS": "1"})
    spawner.start()
    try:
        async with spawner.client() as client:
            status = await client.ready(
                spawner.app(SLOW.replace("sleep(1)", "sleep(3)")), timeout_secs=20
            )
            answer = asyncio.ensure_future(call(status))
            await _until_logged(client, status.replica_id, "began")
            ended = await client.stop(status.replica_id, grace_secs=20)
            assert b"done" in await answer
            assert ended.reason == "Stopped"
    finally:
        spawner.close()
