"""The generator's wires against real servers, and what they take for an answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from benchmarks.load import Generator, Spec
from benchmarks.wires import is_local, split_answer, why_of

from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

METHOD = "/dodil.ignite.v1.ComputeService/Invoke"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class TestSplitAnswer:
    def test_ends_where_the_length_says(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP"
        assert split_answer(answer) == (200, len(answer) - 4)

    @pytest.mark.parametrize("trailers", [b"", b"x-a: b\r\n"])
    def test_chunks_end_with_the_trailers(self, trailers: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = head + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"
        assert split_answer(answer + b"x") == (200, len(answer))

    def test_no_part_of_an_answer_is_one(self) -> None:
        for answer in (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        ):
            parts = (answer[:size] for size in range(len(answer)))
            assert [part for part in parts if split_answer(part)] == []

    def test_an_error_is_counted_with_its_reason(self) -> None:
        answer = b"HTTP/1.1 503 x\r\nx-ignite-error: QueueFull\r\ncontent-length: 0\r\n\r\n"
        assert why_of(503, answer) == "503 QueueFull"
        assert why_of(500, b"HTTP/1.1 500 x\r\n\r\n") == "500"


class TestLoopback:
    @pytest.mark.parametrize(
        "target", ["127.0.0.1:80", "[::1]:80", "localhost:80", "unix:/run/x/s", "127.9.9.9:1"]
    )
    def test_this_machine_is_local(self, target: str) -> None:
        assert is_local(target)

    @pytest.mark.parametrize("target", ["10.0.0.1:80", "example.com:80", "0.0.0.0:80", "x", ""])
    def test_everything_else_is_not(self, target: str) -> None:
        assert not is_local(target)

    async def test_load_for_another_machine_is_refused(self) -> None:
        with pytest.raises(ValueError, match="loopback only"):
            await Generator(Spec(target="192.0.2.1:80", requests=(GET,))).run()


class TestHttp:
    async def test_sends_as_many_as_asked_and_each_in_turn(self, tmp_path: Path) -> None:
        async with http_server(tmp_path) as seen:
            load = await Generator(
                Spec(
                    target=f"unix:{tmp_path}/s",
                    requests=(GET, GET.replace(b"/ ", b"/other ")),
                    connections=3,
                    total=20,
                    secs=30,
                )
            ).run()
        assert load.requests == 20
        assert load.errors == 0
        assert len(seen) == 20
        assert sum(b"/other" in one for one in seen) == 10

    async def test_counts_what_is_not_expected_as_error(self, tmp_path: Path) -> None:
        async with http_server(tmp_path, status=b"503"):
            load = await Generator(
                Spec(target=f"unix:{tmp_path}/s", requests=(GET,), connections=2, total=6, secs=30)
            ).run()
        assert (load.requests, load.errors, load.detail) == (0, 6, {"503": 6})

    async def test_counts_a_closed_connection(self, tmp_path: Path) -> None:
        async with http_server(tmp_path, status=b""):
            load = await Generator(
                Spec(target=f"unix:{tmp_path}/s", requests=(GET,), connections=1, total=3, secs=30)
            ).run()
        assert load.requests == 0
        assert load.detail == {"closed": 3}

    async def test_open_loop_sends_all_that_was_due(self, tmp_path: Path) -> None:
        async with http_server(tmp_path) as seen:
            load = await Generator(
                Spec(
                    target=f"unix:{tmp_path}/s",
                    requests=(GET,),
                    connections=1,
                    total=30,
                    per_sec=10_000,
                    secs=0.5,
                )
            ).run()
        assert load.requests == len(seen) == 30


class TestGrpc:
    async def test_counts_good_streams_and_failures(self) -> None:
        async with grpc_server() as port:
            good = await Generator(grpc_spec(port, b"200000", total=40)).run()
            bad = await Generator(grpc_spec(port, b"none", total=5)).run()
        assert (good.requests, good.errors) == (40, 0)
        assert bad.requests == 0
        assert bad.detail == {str(grpc.StatusCode.NOT_FOUND.value[0]): 5}

    async def test_sends_more_than_a_window_at_once(self) -> None:
        """The other side opens its window as it reads; until then the rest has to wait."""
        async with grpc_server() as port:
            load = await Generator(grpc_spec(port, b"1" + b" " * 40_000, total=12)).run()
        assert (load.requests, load.errors) == (12, 0)

    async def test_sends_the_bearer(self) -> None:
        async with grpc_server(bearer="Bearer x") as port:
            good = await Generator(grpc_spec(port, b"1", total=4, authorization="Bearer x")).run()
            bad = await Generator(grpc_spec(port, b"1", total=4)).run()
        assert good.requests == 4
        assert bad.errors == 4


def test_a_spec_reaches_the_process_whole() -> None:
    spec = Spec(target="unix:/x", requests=(b"\0\xff", b""), method="/a/b", ok=(0, 5), per_sec=2.5)
    assert Spec.parse(spec.dump()) == spec


def grpc_spec(port: int, body: bytes, *, total: int, authorization: str = "") -> Spec:
    request = pb.InvokeRequest(organization_name="o", app_name="a", body=body)
    return Spec(
        target=f"127.0.0.1:{port}",
        requests=(request.SerializeToString(),),
        method=METHOD,
        authorization=authorization,
        connections=2,
        slots=3,
        total=total,
        secs=30,
        ok=(0,),
    )


@asynccontextmanager
async def http_server(folder: Path, *, status: bytes = b"200") -> AsyncIterator[list[bytes]]:
    """Answer every request with `status`; none: close."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                if not status:
                    return
                writer.write(b"HTTP/1.1 " + status + b" x\r\ncontent-length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, folder / "s")
    try:
        yield seen
    finally:
        server.close()
        await server.wait_closed()


class _Invokes(pb_grpc.ComputeServiceServicer):
    def __init__(self, bearer: str) -> None:
        self._bearer = bearer

    async def Invoke(  # noqa: N802 - the wire's name
        self, request: pb.InvokeRequest, context: Any
    ) -> AsyncIterator[Any]:
        sent = dict(context.invocation_metadata()).get("authorization", "")
        if sent != self._bearer:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        if request.body == b"none":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such app")
        yield pb.InvokeResponse(head=pb.InvokeHead(status_code=200))
        yield pb.InvokeResponse(chunk=bytes(int(request.body)))


@asynccontextmanager
async def grpc_server(*, bearer: str = "") -> AsyncIterator[int]:
    server = grpc.aio.server()
    pb_grpc.add_ComputeServiceServicer_to_server(_Invokes(bearer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=None)
