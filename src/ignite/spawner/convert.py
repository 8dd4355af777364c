"""Protobuf of the internal wire to the spawner's own values, and back."""

from datetime import datetime

from ignite.domain.errors import InvalidArgument
from ignite.domain.versions import Language, Runtime
from ignite.domain.workloads import ReplicaState, WarmPool
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.sandbox.report import Level
from ignite.settings import RuntimeSettings
from ignite.spawner.host import Host
from ignite.spawner.logs import LogLine
from ignite.spawner.specs import BuildLine, BuildOutcome, BuildSpec, ReplicaSpec, ReplicaStatus

_STATES = {
    ReplicaState.STARTING: pb.REPLICA_STATE_STARTING,
    ReplicaState.READY: pb.REPLICA_STATE_READY,
    ReplicaState.DRAINING: pb.REPLICA_STATE_DRAINING,
    ReplicaState.EXITED: pb.REPLICA_STATE_EXITED,
    ReplicaState.FAILED: pb.REPLICA_STATE_FAILED,
}
_DEFAULT_PORT = 80


def replica_spec(spec: pb.ReplicaSpec, settings: RuntimeSettings) -> ReplicaSpec:
    """Return the value; zeros become the settings' defaults."""
    return ReplicaSpec(
        id=spec.replica_id,
        workload=spec.workload_key,
        organization_name=spec.organization_name,
        organization_id=spec.organization_id,
        app_name=spec.app_name,
        version=spec.version,
        runtime=runtime_of(spec.runtime),
        artifact_path=spec.artifact_path,
        env=dict(spec.env),
        memory_mb=spec.memory_mb,
        cpu_millicores=spec.cpu_millicores,
        pids_max=spec.pids_max or settings.pids_max,
        max_concurrency=spec.max_concurrency or settings.max_concurrency,
        timeout_secs=spec.timeout_secs,
        drain_grace_secs=spec.drain_grace_secs,
        health_path=spec.health_path or "/healthz",
        port=spec.port or _DEFAULT_PORT,
    )


def build_spec(spec: pb.BuildSpec) -> BuildSpec:
    """Return the value; build arguments reach the command as `IGNITE_BUILD_ARG_<NAME>`."""
    return BuildSpec(
        id=spec.build_id,
        organization_id=spec.organization_id,
        runtime=runtime_of(spec.runtime),
        source_path=spec.source_path,
        output_path=spec.output_path,
        command=tuple(spec.command),
        env={
            **{f"IGNITE_BUILD_ARG_{name}": value for name, value in spec.build_args.items()},
            **spec.env,
        },
        timeout_secs=spec.timeout_secs,
        memory_mb=spec.memory_mb,
        cpu_millicores=spec.cpu_millicores,
    )


def status(value: ReplicaStatus) -> pb.ReplicaStatus:
    """Return the message."""
    return pb.ReplicaStatus(
        replica_id=value.id,
        workload_key=value.workload,
        state=_STATES[value.state],
        unix_path=value.endpoint.unix_path,
        host=value.endpoint.host,
        port=value.endpoint.port,
        pid=value.pid,
        started_at_ms=_millis(value.started_at),
        ready_at_ms=_millis(value.ready_at),
        ended_at_ms=_millis(value.ended_at),
        exit_code=value.exit_code,
        reason=value.reason,
        message=value.message,
    )


def log_line(replica_id: str, line: LogLine) -> pb.StreamReplicaLogsResponse:
    """Return the message."""
    return pb.StreamReplicaLogsResponse(
        replica_id=replica_id,
        timestamp_ms=line.ts_ms,
        stream=line.stream,
        message=line.message,
    )


def build_output(value: BuildLine | BuildOutcome) -> pb.RunBuildResponse:
    """Return the message."""
    match value:
        case BuildLine():
            line = pb.BuildLine(
                timestamp_ms=_millis(value.at), stream=value.stream, message=value.message
            )
            return pb.RunBuildResponse(line=line)
        case BuildOutcome():
            result = pb.BuildResult(
                succeeded=not value.reason,
                exit_code=value.exit_code,
                reason=value.reason,
                message=value.message,
                duration_ms=int(value.duration_secs * 1000),
                runtime_version=value.runtime_version,
            )
            return pb.RunBuildResponse(result=result)


def sandbox_report(host: Host) -> pb.GetSandboxReportResponse:
    """Return the message."""
    report = host.report
    return pb.GetSandboxReportResponse(
        level=report.level,
        required_level=Level.FULL if report.is_required else Level.PARTIAL,
        sufficient=not report.refusal,
        features=[
            pb.SandboxFeature(
                name=layer.name, enforced=layer.is_ok, detail=layer.detail, fix=layer.fix
            )
            for layer in report.layers
        ],
        interpreters=[
            pb.Interpreter(
                language=Language.PYTHON, version=minor, full_version=interpreter.version
            )
            for minor, interpreter in host.interpreters.items()
        ],
    )


def warm_pool(pool: WarmPool) -> pb.WarmPool:
    """Return the message."""
    return pb.WarmPool(
        runtime=pb.LanguageRuntime(language=pool.runtime.language, version=pool.runtime.version),
        size=pool.size,
        ready=pool.ready,
    )


def runtime_of(runtime: pb.LanguageRuntime) -> Runtime:
    """Return the value; raises InvalidArgument."""
    try:
        language = Language(runtime.language)
    except ValueError:
        raise InvalidArgument(
            f"{runtime.language[:40]!r} is no language", field="runtime.language"
        ) from None
    return Runtime(language=language, version=runtime.version, target=runtime.target)


def _millis(at: datetime | None) -> int:
    return int(at.timestamp() * 1000) if at else 0
