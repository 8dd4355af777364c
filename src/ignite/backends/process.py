"""Replicas as sandboxed processes of this machine: a client of the spawner, which keeps root."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
from google.rpc import (  # type: ignore[import-untyped]  # has no stubs
    error_details_pb2,
    status_pb2,
)

from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.workloads import Endpoint, Replica, ReplicaState, WorkloadSpec
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc
from ignite.layout import Layout
from ignite.ports.replicas import ReplicaChanges
from ignite.settings import RuntimeSettings

_CALL_TIMEOUT_SECS = 10.0
_DETAILS_KEY = "grpc-status-details-bin"
_PERMANENT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_STATES = {
    pb.REPLICA_STATE_STARTING: ReplicaState.STARTING,
    pb.REPLICA_STATE_READY: ReplicaState.READY,
    pb.REPLICA_STATE_DRAINING: ReplicaState.DRAINING,
    pb.REPLICA_STATE_EXITED: ReplicaState.EXITED,
    pb.REPLICA_STATE_FAILED: ReplicaState.FAILED,
}


class ProcessDriver:
    """`ports.replicas.ReplicaDriver` over the spawner's socket."""

    def __init__(
        self, channel: grpc.aio.Channel, layout: Layout, settings: RuntimeSettings
    ) -> None:
        self._stub = replicas_pb2_grpc.ReplicaServiceStub(channel)
        self._layout = layout
        self._settings = settings

    async def start(self, replica_id: str, spec: WorkloadSpec) -> None:
        """Start one replica; returns before it is ready."""
        artifact = self._layout.artifact(spec.ref.app.organization, spec.ref.artifact)
        try:
            await self._stub.StartReplica(
                pb.StartReplicaRequest(spec=self._wire(replica_id, spec, artifact)),
                timeout=_CALL_TIMEOUT_SECS,
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error

    async def stop(self, replica_id: str, grace_secs: float, reason: str) -> None:
        """Drain and stop in the background; an unknown id is success."""
        request = pb.StopReplicaRequest(
            replica_id=replica_id, grace_secs=int(grace_secs), reason=reason
        )
        try:
            await self._stub.StopReplica(request, timeout=_CALL_TIMEOUT_SECS)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"spawner: {error.details()}") from error

    async def watch(self) -> AsyncGenerator[ReplicaChanges, None]:
        """Yield a snapshot, then changes; raises TemporaryError when the spawner is gone."""
        stream = self._stub.WatchReplicas(pb.WatchReplicasRequest(), wait_for_ready=True)
        try:
            async for changes in stream:
                # A state of a newer spawner is none that we could act on.
                known = [status for status in changes.replicas if status.state in _STATES]
                yield ReplicaChanges(
                    is_snapshot=changes.snapshot,
                    replicas=tuple(_replica(status) for status in known),
                )
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"spawner: {error.details()}") from error
        finally:
            stream.cancel()

    def _wire(self, replica_id: str, spec: WorkloadSpec, artifact: Path) -> pb.ReplicaSpec:
        return pb.ReplicaSpec(
            replica_id=replica_id,
            workload_key=spec.ref.key,
            organization_name=spec.ref.app.organization,
            organization_id=spec.organization_id,
            app_name=spec.ref.app.name,
            version=spec.ref.version,
            runtime=pb.LanguageRuntime(
                language=spec.runtime.language.value,
                version=spec.runtime.version,
                target=spec.runtime.target,
            ),
            artifact_path=str(artifact),
            env=dict(spec.env),
            memory_mb=spec.memory_mb,
            cpu_millicores=spec.cpu_millicores,
            pids_max=self._settings.pids_max,
            max_concurrency=spec.max_concurrency,
            timeout_secs=spec.timeout_secs,
            drain_grace_secs=int(self._settings.stop_grace_secs),
            health_path=spec.health_path,
            port=spec.port,
        )


def _translated(error: grpc.aio.AioRpcError) -> PermanentError | TemporaryError:
    text = error.details() or "the spawner refused"
    if error.code() in _PERMANENT:
        return PermanentError(text, reason=_reason(error) or "CannotStart")
    return TemporaryError(f"spawner: {text}")


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return the reason word among the details of an error, or ""."""
    for key, value in error.trailing_metadata():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


def _replica(status: pb.ReplicaStatus) -> Replica:
    return Replica(
        id=status.replica_id,
        workload=status.workload_key,
        state=_STATES[status.state],
        endpoint=Endpoint(unix_path=status.unix_path, host=status.host, port=status.port),
        started_at=_at(status.started_at_ms),
        ready_at=_at(status.ready_at_ms) if status.ready_at_ms else None,
        reason=status.reason,
        message=status.message,
    )


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
