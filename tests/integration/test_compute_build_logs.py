"""StreamCompileLogs: the lines of a compile as they come, and again afterwards."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.compute import (
    ACME,
    Compute,
    serving,
)

from ignite.domain.apps import AppRef
from ignite.settings import LimitSettings
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

Code = grpc.StatusCode
HELLO = AppRef(organization=ACME.name, name="hello")


@pytest.fixture
async def compute(database_url: str, tmp_path: Path) -> AsyncIterator[Compute]:
    async with serving(database_url, tmp_path) as served:
        await served.create("hello")
        yield served


class TestBuildLogs:
    async def follow(self, compute: Compute, deploy_id: str, **options: Any) -> list[Any]:
        request = pb.StreamCompileLogsRequest(deploy_id=deploy_id)
        return [frame async for frame in compute.call("StreamCompileLogs", request, **options)]

    async def test_stored_lines_are_replayed_then_the_status(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        claimed = await compute.controllers.claim()
        await claimed.log("one", "two")
        await claimed.succeed()
        frames = await self.follow(compute, started.deploy_id)
        assert [frame.line.message for frame in frames] == ["one", "two", ""]
        assert frames[-1].status == common.VERSION_STATUS_DRAFT
        assert not frames[-1].HasField("line")

    async def test_lines_come_while_the_compile_runs(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        claimed = await compute.controllers.claim()
        stream = compute.call(
            "StreamCompileLogs", pb.StreamCompileLogsRequest(deploy_id=started.deploy_id)
        )
        for message in ("one", "two"):
            await claimed.log(message)
            frame = await stream.read()
            assert frame.line.message == message
            assert frame.line.stream == "stdout"
        await claimed.fail("it broke", "CompileFailed")
        last = await stream.read()
        assert last.status == common.VERSION_STATUS_FAILED
        assert (last.error, last.error_reason) == ("it broke", "CompileFailed")
        assert await stream.read() is grpc.aio.EOF

    async def test_log_longer_than_a_page_comes_whole(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        claimed = await compute.controllers.claim()
        wanted = [f"line {number}" for number in range(1_203)]
        await claimed.log(*wanted)
        await claimed.succeed()
        frames = await self.follow(compute, started.deploy_id)
        assert [frame.line.message for frame in frames[:-1]] == wanted

    async def test_compile_of_another_tenant_is_not_found(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        for deploy_id in (started.deploy_id, "dep_0", "x\0", "", started.build_id):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await self.follow(compute, deploy_id, organization="rival")
            assert caught.value.code() is Code.NOT_FOUND

    async def test_following_holds_no_connection_while_it_waits(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        request = pb.StreamCompileLogsRequest(deploy_id=started.deploy_id)
        streams = [compute.call("StreamCompileLogs", request) for _ in range(30)]
        claimed = await compute.controllers.claim()
        await claimed.log("go")
        for stream in streams:
            assert (await stream.read()).line.message == "go"
        await claimed.succeed()
        for stream in streams:
            assert (await stream.read()).status == common.VERSION_STATUS_DRAFT

    async def test_followed_app_that_is_deleted_ends_the_stream(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        stream = compute.call(
            "StreamCompileLogs", pb.StreamCompileLogsRequest(deploy_id=started.deploy_id)
        )
        claimed = await compute.controllers.claim()
        await claimed.log("one")
        assert (await stream.read()).line.message == "one"
        await compute.call("DeleteApp", pb.DeleteAppRequest(app_name="hello"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is Code.NOT_FOUND

    async def stored(self, compute: Compute, build_id: str) -> Any:
        request = pb.GetBuildLogRequest(app_name="hello", build_id=build_id)
        return await compute.call("GetBuildLog", request)

    async def test_stored_log_has_lines_and_status(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        assert (await self.stored(compute, started.build_id)).status == common.BUILD_STATUS_PENDING
        claimed = await compute.controllers.claim()
        await claimed.log("one")
        await claimed.log("two", stream="stderr")
        await claimed.succeed()
        log = await self.stored(compute, started.build_id)
        assert [(line.stream, line.message) for line in log.lines] == [
            ("stdout", "one"),
            ("stderr", "two"),
        ]
        assert log.status == common.BUILD_STATUS_SUCCEEDED
        assert not log.truncated

    async def test_long_log_loses_its_middle_and_says_so(
        self, database_url: str, tmp_path: Path
    ) -> None:
        limits = LimitSettings(build_log_reply_bytes=1_000)
        async with serving(database_url, tmp_path, limits=limits) as compute:
            await compute.create("hello")
            await compute.save("hello")
            started = await compute.compile_draft()
            claimed = await compute.controllers.claim()
            await claimed.log(*(f"{number:04}" for number in range(700)))
            log = await self.stored(compute, started.build_id)
            messages = [line.message for line in log.lines]
            assert log.truncated
            assert (messages[0], messages[-1]) == ("0000", "0699")
            assert len(messages) < 40

    async def test_gap_that_the_writer_left_is_said(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        claimed = await compute.controllers.claim()
        await claimed.log("one")
        claimed.lines += 5
        await claimed.log("seven")
        assert (await self.stored(compute, started.build_id)).truncated

    async def test_unknown_build_is_not_found(self, compute: Compute) -> None:
        status, _ = await compute.refused(
            "GetBuildLog", pb.GetBuildLogRequest(app_name="hello", build_id="bld_x\0")
        )
        assert status is Code.NOT_FOUND
