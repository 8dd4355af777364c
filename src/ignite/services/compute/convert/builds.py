"""Builds and their logs."""

from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.services.compute.build_logs import BuildLog
from ignite.services.compute.convert.common import to_ms
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

_STATES = {
    BuildState.PENDING: common.BUILD_STATUS_PENDING,
    BuildState.RUNNING: common.BUILD_STATUS_RUNNING,
    BuildState.SUCCEEDED: common.BUILD_STATUS_SUCCEEDED,
    BuildState.FAILED: common.BUILD_STATUS_FAILED,
    BuildState.CANCELLED: common.BUILD_STATUS_CANCELLED,
}


def build_log(log: BuildLog) -> pb.GetBuildLogResponse:
    """Return a stored log."""
    return pb.GetBuildLogResponse(
        lines=[log_line(line) for line in log.lines],
        status=_STATES[log.build.state],
        truncated=log.is_truncated,
    )


def log_line(line: BuildLine) -> common.BuildLogLine:
    """Return one line."""
    return common.BuildLogLine(
        timestamp_ms=to_ms(line.at), stream=line.stream, message=line.message
    )


def compile_frame(item: BuildLine | Build) -> pb.StreamCompileLogsResponse:
    """Return a frame of a followed compile: a line, or how it ended."""
    if isinstance(item, BuildLine):
        return pb.StreamCompileLogsResponse(line=log_line(item))
    if item.state is BuildState.SUCCEEDED:
        return pb.StreamCompileLogsResponse(status=common.VERSION_STATUS_DRAFT)
    is_cancelled = item.state is BuildState.CANCELLED
    return pb.StreamCompileLogsResponse(
        status=common.VERSION_STATUS_FAILED,
        error=item.error or ("the compile was cancelled" if is_cancelled else ""),
        error_reason=item.error_reason or ("Cancelled" if is_cancelled else ""),
    )
