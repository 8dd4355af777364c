"""ReplicaService: messages in, messages out."""

# ruff: noqa: N802, ARG002 - the generated base decides the names and the arguments

from collections.abc import AsyncIterator

import grpc

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc
from ignite.settings import RuntimeSettings
from ignite.spawner import convert
from ignite.spawner.builds import Builds
from ignite.spawner.host import Host
from ignite.spawner.pools import WarmPools
from ignite.spawner.replicas import Replicas

Context = grpc.aio.ServicerContext[object, object]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ReplicaService"].full_name


class ReplicaServicer(replicas_pb2_grpc.ReplicaServiceServicer):
    """The spawner's only door."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        replicas: Replicas,
        builds: Builds,
        pools: WarmPools,
        host: Host,
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._builds = builds
        self._pools = pools
        self._host = host

    async def StartReplica(
        self, request: pb.StartReplicaRequest, context: Context
    ) -> pb.StartReplicaResponse:
        """Begin to start a replica."""
        status = await self._replicas.start(convert.replica_spec(request.spec, self._settings))
        return pb.StartReplicaResponse(status=convert.status(status))

    async def StopReplica(
        self, request: pb.StopReplicaRequest, context: Context
    ) -> pb.StopReplicaResponse:
        """Begin to end a replica."""
        grace = request.grace_secs if request.HasField("grace_secs") else None
        self._replicas.stop(request.replica_id, grace, request.reason)
        return pb.StopReplicaResponse()

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: Context
    ) -> pb.ListReplicasResponse:
        """Return all replicas."""
        found = [convert.status(status) for status in self._replicas.list()]
        return pb.ListReplicasResponse(replicas=found)

    async def WatchReplicas(
        self, request: pb.WatchReplicasRequest, context: Context
    ) -> AsyncIterator[pb.WatchReplicasResponse]:
        """Stream all replicas, then changes."""
        async for is_snapshot, changed in self._replicas.watch():
            yield pb.WatchReplicasResponse(
                snapshot=is_snapshot, replicas=[convert.status(status) for status in changed]
            )

    async def StreamReplicaLogs(
        self, request: pb.StreamReplicaLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamReplicaLogsResponse]:
        """Stream what replicas wrote, and what they write."""
        lines = self._replicas.logs(
            tuple(request.replica_ids), request.limit, is_following=request.follow
        )
        async for replica_id, line in lines:
            yield convert.log_line(replica_id, line)

    async def RunBuild(
        self, request: pb.RunBuildRequest, context: Context
    ) -> AsyncIterator[pb.RunBuildResponse]:
        """Stream the output of a compile, then its result."""
        async for output in self._builds.compile(convert.build_spec(request.spec)):
            yield convert.build_output(output)

    async def GetSandboxReport(
        self, request: pb.GetSandboxReportRequest, context: Context
    ) -> pb.GetSandboxReportResponse:
        """Return how well this machine isolates."""
        return convert.sandbox_report(self._host)

    async def ListWarmPools(
        self, request: pb.ListWarmPoolsRequest, context: Context
    ) -> pb.ListWarmPoolsResponse:
        """Return the pools that are wanted."""
        return pb.ListWarmPoolsResponse(
            pools=[convert.warm_pool(pool) for pool in self._pools.list()]
        )

    async def SetWarmPoolSize(
        self, request: pb.SetWarmPoolSizeRequest, context: Context
    ) -> pb.SetWarmPoolSizeResponse:
        """Change the size of a pool."""
        pool = await self._pools.set_size(convert.runtime_of(request.runtime), request.size)
        return pb.SetWarmPoolSizeResponse(pool=convert.warm_pool(pool))
