"""Frames of a call on the wire: chunks are written by hand and read as the messages they are."""

import pytest

from ignite.domain.errors import InvalidArgument
from ignite.domain.invocations import Chunk, Trailer
from ignite.services.compute.convert.invocations import frame, http_call
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 1024 * 1024])
def test_a_chunk_is_the_bytes_of_its_message(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    assert frame(Chunk(data=data)) == pb.InvokeResponse(chunk=data).SerializeToString()


def test_other_frames_are_messages() -> None:
    made = frame(Trailer(total_body_bytes=3, duration_ms=1, trailers=()))
    assert isinstance(made, pb.InvokeResponse)
    assert made.trailer.total_body_bytes == 3


def test_every_method_of_the_contract_is_known_and_no_other() -> None:
    for name, number in common.HttpMethod.items():
        method = http_call(common.HttpContext(method=number)).method
        assert method == ("POST" if number == 0 else name.removeprefix("HTTP_METHOD_"))
    unknown = common.HttpContext.FromString(b"\x08\x63")
    with pytest.raises(InvalidArgument):
        http_call(unknown)
