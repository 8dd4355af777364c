"""What strangers can make Envoy hold: the JSON API gathers bodies, but only of who has a token."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.tokens import Keys

from ignite.rpc.auth import OPEN_SERVICES
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

pytestmark = [needs_envoy, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
BODY = 40 * MIB
HEAP = 256 * MIB
PATH = "/v1/ignite/app/acme/hello/draft"
BAD: dict[str, Callable[[Rig], str | None]] = {
    "none": lambda _rig: None,
    "no token": lambda _rig: "garbage",
    "another's key": lambda _rig: Keys().token(),
    "ended": lambda rig: rig.keys.token(exp=1),
    "another audience": lambda rig: rig.keys.token(aud="other"),
}
WORDS = {"none": "MissingToken", "ended": "TokenExpired"}
NEEDED = "A valid bearer token is needed."


class Compute(pb_grpc.ComputeServiceServicer):
    """Takes drafts and says what token came along."""

    def __init__(self) -> None:
        self.archive = 0
        self.authorization = ""

    async def SaveDraft(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.archive = len(request.code.compile.archive)
        self.authorization = dict(context.invocation_metadata())["authorization"]
        return pb.SaveDraftResponse()

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.HealthCheckResponse(status="ok")

    async def GetPublicCatalogDetail(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        return pb.GetPublicCatalogDetailResponse()


@pytest.fixture(scope="module")
def compute() -> Compute:
    return Compute()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(compute: Compute) -> AsyncIterator[Rig]:
    def api(server: grpc.aio.Server) -> None:
        pb_grpc.add_ComputeServiceServicer_to_server(compute, server)

    async with running_rig(api=api) as running:
        yield running


def head(path: str, token: str | None, size: int = BODY) -> bytes:
    shown = "" if token is None else f"authorization: Bearer {token}\r\n"
    text = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{shown}content-length: {size}\r\n\r\n"
    return text.encode()


def memory(rig: Rig) -> int:
    """Return how many bytes of the machine Envoy has now."""
    assert rig.envoy is not None
    lines = Path(f"/proc/{rig.envoy.pid}/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(found.split()[1]) * 1024


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(20):
        text = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(text.partition("content-length: ")[2].partition("\r\n")[0])
        return int(text.split()[1]), json.loads(await reader.readexactly(size))


@pytest.mark.parametrize("what", BAD)
async def test_a_body_is_not_awaited_of_who_has_no_good_token(rig: Rig, what: str) -> None:
    reader, writer = await rig.connect()
    writer.write(head(PATH, BAD[what](rig)))
    status, error = await answer_of(reader)
    writer.close()
    assert (status, error["code"]) == (401, 16)
    assert error["details"][0]["reason"] == WORDS.get(what, "Unauthenticated")


async def test_many_bodies_of_strangers_cost_next_to_nothing(rig: Rig) -> None:
    before = memory(rig)

    async def stranger() -> int:
        """Send all of a body but its end; return what Envoy has then."""
        reader, writer = await rig.connect()
        writer.write(head(PATH, "garbage"))
        with contextlib.suppress(ConnectionError):
            for _ in range(BODY // MIB - 1):
                writer.write(bytes(MIB))
                await writer.drain()
        most = memory(rig)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert (await answer_of(reader))[0] == 401
        writer.close()
        return most

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        strangers = [group.create_task(stranger()) for _ in range(8)]
    assert max(one.result() for one in strangers) - before < 2 * BODY


async def test_what_needs_no_token_takes_no_large_body(rig: Rig) -> None:
    for path in ("/v1/ignite/health", "/v1/ignite/public/catalog/x"):
        assert (await rig.get("localhost", path, token=None)).status == 200
        reader, writer = await rig.connect()
        writer.write(head(path, None))
        writer.write(bytes(MIB // 4))
        assert (await answer_of(reader))[0] in (405, 413)
        writer.close()


async def test_a_good_token_still_brings_a_large_draft_and_reaches_the_api(
    rig: Rig, compute: Compute
) -> None:
    token = rig.keys.token()
    text = b"A" * (4 * MIB)
    body = b'{"code":{"compile":{"archive":"' + text + b'"}}}'
    got = await rig.get("localhost", PATH, method="POST", token=token, body=body)
    assert got.status == 200
    assert compute.archive == 3 * MIB
    assert compute.authorization == f"Bearer {token}"


async def test_paths_that_are_not_there_tell_strangers_nothing(rig: Rig) -> None:
    assert (await rig.get("localhost", "/v1/ignite/nothing", token=None)).status == 401
    assert (await rig.get("localhost", "/v1/ignite/nothing")).status == 404


async def test_a_message_is_not_awaited_of_who_has_no_good_token(rig: Rig) -> None:
    """Native gRPC; the call never sends its message."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        save: Any = channel.stream_unary("/dodil.ignite.v1.ComputeService/SaveDraft")
        for what, make in BAD.items():
            token = make(rig)
            sent = None if token is None else [("authorization", f"Bearer {token}")]
            call = save(metadata=sent, timeout=20)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED, what
            ended = "The token has expired."
            assert await call.details() == (ended if what == "ended" else NEEDED), what


async def test_grpc_that_needs_no_token_needs_none(rig: Rig) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        stub = pb_grpc.ComputeServiceStub(channel)
        assert (await stub.HealthCheck(pb.HealthCheckRequest(), timeout=20)).status == "ok"
        for service in OPEN_SERVICES:
            ask: Any = channel.unary_unary(f"/{service}/None")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_at_the_bound_of_memory_new_requests_are_refused_until_there_is_room() -> None:
    async with running_rig(gateway={"heap_bytes": HEAP}) as rig:
        held: list[asyncio.StreamWriter] = []
        while (await rig.get("localhost", "/healthz")).status == 207:
            assert memory(rig) < 2 * HEAP
            _, writer = await rig.connect()
            held.append(writer)
            writer.write(head(PATH, rig.keys.token()))
            with contextlib.suppress(ConnectionError):
                for _ in range(BODY // MIB - 1):
                    writer.write(bytes(MIB))
                    await writer.drain()
        for writer in held:
            writer.close()
        async with asyncio.timeout(20):
            while (await rig.get("localhost", "/healthz")).status != 207:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
