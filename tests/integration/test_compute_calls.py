"""Invoke, TestDraft and TestAppVersion over gRPC; the gateway behind them is a fake."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes.dispatch import FakeReply
from tests.support.compute import HANDLER, Compute, serving

from ignite.domain.errors import DeadlineExceeded, NotFound, Unavailable
from ignite.ports.dispatch import Call
from ignite.settings import LimitSettings
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

Code = grpc.StatusCode
JSON = (("content-type", "application/json"),)


@pytest.fixture
async def compute(database_url: str, tmp_path: Path) -> AsyncIterator[Compute]:
    async with serving(database_url, tmp_path) as served:
        await served.create("hello")
        yield served


async def try_draft(compute: Compute, timeout: float = 20, **fields: Any) -> Any:
    request = pb.TestDraftRequest(app_name="hello", **fields)
    return await compute.call("TestDraft", request, timeout=timeout)


async def compiled_draft(compute: Compute) -> None:
    await compute.save("hello")
    await compute.call("CompileDraft", pb.CompileDraftRequest(app_name="hello"))
    await compute.controllers.build()


async def frames(compute: Compute, organization: str = "acme", **fields: Any) -> list[Any]:
    request = pb.InvokeRequest(app_name="hello", **fields)
    return [frame async for frame in compute.call("Invoke", request, organization=organization)]


class TestInvoke:
    async def test_frames_come_in_order(self, compute: Compute) -> None:
        compute.dispatcher.reply = FakeReply(
            status=404,
            headers=(("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-a", "1")),
            chunks=(b"one", b"two"),
            trailers=(("x-sum", "9"),),
        )
        head, one, two, trailer = await frames(compute, body=b"payload")
        assert head.head.status_code == 404
        assert head.head.execution_id.startswith("exec_")
        assert head.head.response_headers["set-cookie"] == "a=1, b=2"
        assert [(h.name, h.value) for h in head.head.header_list] == [
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-a", "1"),
        ]
        assert (one.chunk, two.chunk) == (b"one", b"two")
        assert trailer.trailer.total_body_bytes == 6
        assert dict(trailer.trailer.trailers) == {"x-sum": "9"}
        (call,) = compute.dispatcher.calls
        assert (call.app.id, call.version, call.body) == ("acme/hello", None, b"payload")
        assert call.execution_id == head.head.execution_id
        assert 0 < call.deadline_secs < 21

    async def test_envelope_becomes_the_request(self, compute: Compute) -> None:
        http = common.HttpContext(
            method=common.HTTP_METHOD_PUT,
            path="/a",
            query="b=c",
            headers={"X-One": "1"},
            header_list=[
                common.Header(name="x-two", value="2"),
                common.Header(name="x-two", value="3"),
            ],
        )
        await frames(compute, http=http)
        (call,) = compute.dispatcher.calls
        assert (call.method, call.target) == ("PUT", "/a?b=c")
        assert call.headers == (("x-one", "1"), ("x-two", "2"), ("x-two", "3"))

    async def test_nothing_given_is_a_post_of_the_root(self, compute: Compute) -> None:
        await frames(compute)
        (call,) = compute.dispatcher.calls
        assert (call.method, call.target, call.headers) == ("POST", "/", ())

    async def test_failure_after_the_head_keeps_what_came(self, compute: Compute) -> None:
        compute.dispatcher.reply = FakeReply(chunks=(b"one",), breaks=Unavailable("broke off"))
        stream = compute.call("Invoke", pb.InvokeRequest(app_name="hello"))
        assert (await stream.read()).head.status_code == 200
        assert (await stream.read()).chunk == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is Code.UNAVAILABLE

    async def test_client_that_leaves_disconnects_the_replica(self, compute: Compute) -> None:
        compute.dispatcher.reply = FakeReply(chunks=(b"a", b"b"), gate=asyncio.Event())
        stream = compute.call("Invoke", pb.InvokeRequest(app_name="hello"))
        await stream.read()
        stream.cancel()
        async with asyncio.timeout(10):
            await compute.dispatcher.left.wait()

    async def test_public_apps_are_open_to_all_and_others_are_not(self, compute: Compute) -> None:
        await frames(compute, organization_name="public")
        assert compute.dispatcher.calls[0].app.id == "public/hello"
        for method in ("Invoke", "TestDraft"):
            kind: Any = pb.InvokeRequest if method == "Invoke" else pb.TestDraftRequest
            organization = "rival" if method == "Invoke" else "public"
            call = compute.call(method, kind(app_name="hello", organization_name=organization))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if method == "Invoke" else call)
            assert caught.value.code() is Code.PERMISSION_DENIED


class TestTrialOfDraft:
    async def test_answer_is_an_execution_that_nobody_stores(self, compute: Compute) -> None:
        await compiled_draft(compute)
        compute.dispatcher.reply = FakeReply(
            headers=(*JSON, ("x-ignite-cold-start-wait-ms", "0012")), chunks=(b'{"a"', b": 1}")
        )
        answer = await try_draft(compute, payload=b"in")
        execution = answer.execution
        assert execution.status == common.EXECUTION_STATUS_COMPLETED
        assert execution.result == b'{"a": 1}'
        assert execution.app_id == "acme/hello"
        assert execution.app_name == "hello"
        assert execution.function_version == 0
        assert not execution.error_class
        assert execution.metrics.cold_start_ms == 12
        assert execution.metrics.billed_duration_ms >= 12
        assert execution.metrics.result_size_bytes == 8
        assert execution.metrics.resource_tier == "Small"
        assert execution.completed_at_ms >= execution.started_at_ms > 0
        assert answer.status_code == 200
        assert answer.response_headers["content-type"] == "application/json"
        (call,) = compute.dispatcher.calls
        assert (call.version, call.body) == (0, b"in")
        assert call.execution_id == execution.id

    @pytest.mark.parametrize(
        ("status", "word", "fault"),
        [
            (200, "COMPLETED", ""),
            (204, "COMPLETED", ""),
            (302, "COMPLETED", ""),
            (404, "FAILED", "client"),
            (500, "FAILED", "user_code"),
            (503, "FAILED", "user_code"),
        ],
    )
    async def test_status_decides_the_outcome(
        self, compute: Compute, status: int, word: str, fault: str
    ) -> None:
        await compiled_draft(compute)
        compute.dispatcher.reply = FakeReply(status=status, chunks=(b"x",))
        answer = await try_draft(compute)
        assert common.ExecutionStatus.Name(answer.execution.status) == f"EXECUTION_STATUS_{word}"
        assert answer.execution.error_class == fault
        assert bool(answer.execution.error) == bool(fault)
        assert answer.status_code == status

    @pytest.mark.parametrize(
        ("error", "word", "fault"),
        [
            (Unavailable("no module x", reason="ImportFailed"), "FAILED", "user_code"),
            (Unavailable("killed", reason="OutOfMemory"), "FAILED", "user_code"),
            (Unavailable("held too long", reason="QueueFull"), "FAILED", "platform"),
            (NotFound("not routed"), "FAILED", "platform"),
            (DeadlineExceeded("late"), "TIMEOUT", "user_code"),
        ],
    )
    async def test_call_that_gets_no_answer_is_an_outcome_too(
        self, compute: Compute, error: Exception, word: str, fault: str
    ) -> None:
        await compiled_draft(compute)
        compute.dispatcher.refuses = error
        answer = await try_draft(compute)
        assert common.ExecutionStatus.Name(answer.execution.status) == f"EXECUTION_STATUS_{word}"
        assert answer.execution.error_class == fault
        assert answer.execution.error == str(error)
        assert answer.status_code == 0
        assert answer.execution.id.startswith("exec_")

    async def test_break_in_the_body_is_no_answer(self, compute: Compute) -> None:
        await compiled_draft(compute)
        compute.dispatcher.reply = FakeReply(
            chunks=(b"x",), breaks=Unavailable("the replica broke off", reason="Crashed")
        )
        execution = (await try_draft(compute)).execution
        assert execution.status == common.EXECUTION_STATUS_FAILED
        assert execution.error_reason == "Crashed"
        assert not execution.result

    async def test_text_and_bytes_become_json(self, compute: Compute) -> None:
        await compiled_draft(compute)
        compute.dispatcher.reply = FakeReply(
            headers=(("content-type", "text/plain; charset=utf-8"),), chunks=("grüß".encode(),)
        )
        assert json.loads((await try_draft(compute)).execution.result) == "grüß"
        compute.dispatcher.reply = FakeReply(
            headers=(("content-type", "application/octet-stream"),), chunks=(b"\xff\0",)
        )
        found = json.loads((await try_draft(compute)).execution.result)
        assert base64.b64decode(found) == b"\xff\0"

    async def test_uncompiled_draft_is_compiled_first(self, compute: Compute) -> None:
        await compute.save("hello")
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(try_draft(compute))
            claimed = await _claim(compute)
            assert not compute.dispatcher.calls
            await claimed.succeed()
        assert trial.result().execution.status == common.EXECUTION_STATUS_COMPLETED
        assert len(compute.dispatcher.calls) == 1

    async def test_code_that_does_not_compile_is_the_codes_fault(self, compute: Compute) -> None:
        await compute.save("hello")
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(try_draft(compute))
            await (await _claim(compute)).fail("no package numpyy", "DependencyNotFound")
        execution = trial.result().execution
        assert execution.status == common.EXECUTION_STATUS_FAILED
        assert execution.error_class == "user_code"
        assert execution.error_reason == "DependencyNotFound"
        assert execution.error == "no package numpyy"
        assert execution.metrics.execution_ms == 0
        assert not compute.dispatcher.calls

    async def test_draft_saved_anew_while_it_compiles_is_the_one_that_runs(
        self, compute: Compute
    ) -> None:
        await compute.save("hello")
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(try_draft(compute))
            first = await _claim(compute)
            await compute.save("hello", HANDLER + b"# newer\n")
            await first.succeed()
            second = await _claim(compute)
            assert second.build.code.hash != first.build.code.hash
            assert not compute.dispatcher.calls
            await second.succeed("c" * 64)
        assert trial.result().execution.status == common.EXECUTION_STATUS_COMPLETED

    async def test_draft_saved_anew_before_its_code_ran_is_compiled_and_called_again(
        self, compute: Compute
    ) -> None:
        await compiled_draft(compute)
        saved = asyncio.Event()

        async def save_anew(_: Call) -> None:
            await compute.save("hello", HANDLER + b"# newer\n")
            saved.set()
            raise Unavailable("saved again", reason="DraftChanged")

        compute.dispatcher.before.append(save_anew)
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(try_draft(compute))
            await asyncio.wait_for(saved.wait(), 10)
            await (await _claim(compute)).succeed("c" * 64)
        assert trial.result().execution.status == common.EXECUTION_STATUS_COMPLETED
        first, second = (call.workload for call in compute.dispatcher.calls)
        assert first.startswith("acme/hello@0#")
        assert second.startswith("acme/hello@0#cccccccccccccccc.")
        assert first != second

    async def test_draft_saved_again_and_again_is_not_tried_for_ever(
        self, compute: Compute
    ) -> None:
        await compiled_draft(compute)
        compute.dispatcher.refuses = Unavailable("saved again", reason="DraftChanged")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await try_draft(compute)
        assert caught.value.code() is Code.UNAVAILABLE
        assert len(compute.dispatcher.calls) == 3

    async def test_compile_that_takes_too_long_is_a_timeout_of_the_platform(
        self, compute: Compute
    ) -> None:
        await compute.save("hello")
        execution = (await try_draft(compute, timeout=1)).execution
        assert execution.status == common.EXECUTION_STATUS_TIMEOUT
        assert execution.error_class == "platform"

    async def test_answer_that_takes_too_long_is_a_timeout_before_the_callers_own(
        self, compute: Compute
    ) -> None:
        await compiled_draft(compute)
        compute.dispatcher.hangs = True
        execution = (await try_draft(compute, timeout=1)).execution
        assert execution.status == common.EXECUTION_STATUS_TIMEOUT
        assert execution.error_class == "user_code"
        assert compute.dispatcher.left.is_set()

    async def test_bounds_of_payload_and_answer(self, database_url: str, tmp_path: Path) -> None:
        limits = LimitSettings(payload_bytes=5)
        async with serving(database_url, tmp_path, limits=limits) as compute:
            await compute.create("hello")
            await compiled_draft(compute)
            status, text = await compute.refused(
                "TestDraft", pb.TestDraftRequest(app_name="hello", payload=b"123456")
            )
            assert status is Code.INVALID_ARGUMENT
            assert text.startswith("payload: must be at most 5 bytes")
            compute.dispatcher.reply = FakeReply(endless=b"123")
            execution = (await try_draft(compute)).execution
            assert execution.error_reason == "ResultTooLarge"
            assert not execution.result
            assert compute.dispatcher.left.is_set()

    async def test_without_a_draft_it_is_refused(self, compute: Compute) -> None:
        status, _ = await compute.refused("TestDraft", pb.TestDraftRequest(app_name="hello"))
        assert status is Code.FAILED_PRECONDITION

    async def test_bad_envelope_is_refused_before_anything_compiles(self, compute: Compute) -> None:
        await compute.save("hello")
        status, text = await compute.refused(
            "TestDraft",
            pb.TestDraftRequest(app_name="hello", http=common.HttpContext(path="/a b")),
        )
        assert status is Code.INVALID_ARGUMENT
        assert "http.path" in text
        assert not (
            await compute.call("GetDraftInfo", pb.GetDraftInfoRequest(app_name="hello"))
        ).draft.build_id


class TestTrialOfVersion:
    async def run(self, compute: Compute, version: int) -> Any:
        request = pb.TestAppVersionRequest(app_name="hello", version=version)
        return await compute.call("TestAppVersion", request)

    async def test_chosen_version_runs_and_stays_inactive(self, compute: Compute) -> None:
        await compute.live("hello")
        await compute.live("hello", HANDLER + b"#2\n")
        answer = await self.run(compute, 1)
        assert answer.execution.function_version == 1
        assert compute.dispatcher.calls[0].version == 1
        app = (await compute.call("GetApp", pb.GetAppRequest(app_name="hello"))).app
        assert app.active_version == 2

    async def test_version_that_did_not_compile_says_why(self, compute: Compute) -> None:
        await compute.save("hello")
        await compute.publish("hello")
        await (await compute.controllers.claim()).fail("syntax error", "CompileFailed")
        execution = (await self.run(compute, 1)).execution
        assert execution.error == "syntax error"
        assert execution.error_class == "user_code"

    async def test_version_that_compiles_is_waited_for(self, compute: Compute) -> None:
        await compute.save("hello")
        await compute.publish("hello")
        async with asyncio.TaskGroup() as tasks:
            trial = tasks.create_task(self.run(compute, 1))
            await compute.controllers.build()
        assert trial.result().execution.status == common.EXECUTION_STATUS_COMPLETED


async def _claim(compute: Compute) -> Any:
    """Claim the build that another call is about to start."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await compute.controllers.claim()
            except AssertionError:
                await asyncio.sleep(0.01)
