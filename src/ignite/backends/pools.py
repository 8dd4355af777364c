"""Warm pools of this machine: a client of the spawner, which keeps them."""

import grpc
import grpc.aio

from ignite.domain.errors import FailedPrecondition, IgniteError, InvalidArgument, Unavailable
from ignite.domain.versions import Language, Runtime
from ignite.domain.workloads import WarmPool
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc

_CALL_SECS = 5.0


class SpawnerWarmPools:
    """`ports.pools.WarmPools` over the spawner's socket."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = replicas_pb2_grpc.ReplicaServiceStub(channel)

    async def list(self) -> tuple[WarmPool, ...]:
        """Return every pool that is wanted."""
        try:
            found = await self._stub.ListWarmPools(pb.ListWarmPoolsRequest(), timeout=_CALL_SECS)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        return tuple(_pool(pool) for pool in found.pools)

    async def set_size(self, runtime: Runtime, size: int) -> WarmPool:
        """Change a pool's size, 0 to remove it."""
        request = pb.SetWarmPoolSizeRequest(
            runtime=pb.LanguageRuntime(language=runtime.language, version=runtime.version),
            size=size,
        )
        try:
            done = await self._stub.SetWarmPoolSize(request, timeout=_CALL_SECS)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        return _pool(done.pool)


def _pool(pool: pb.WarmPool) -> WarmPool:
    return WarmPool(
        runtime=Runtime(
            language=Language(pool.runtime.language), version=pool.runtime.version, target=""
        ),
        size=pool.size,
        ready=pool.ready,
    )


def _translated(error: grpc.aio.AioRpcError) -> IgniteError:
    text = error.details() or "the spawner refused"
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidArgument(text)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return FailedPrecondition(text)
        case _:
            return Unavailable("the spawner does not answer")
