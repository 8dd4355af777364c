"""Calls of apps: the envelope in, frames and executions out."""

from collections.abc import Mapping

from ignite.domain.apps import AppRef, check_app_name
from ignite.domain.errors import InvalidArgument
from ignite.domain.executions import Execution
from ignite.domain.identity import Organization, OrganizationName
from ignite.domain.invocations import Chunk, Frame, Head, Headers, HttpCall, Trailer
from ignite.services.compute.convert.common import number, to_ms
from ignite.services.compute.trials import Trial
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

_METHODS = {
    number: "POST"
    if number == common.HTTP_METHOD_UNSPECIFIED
    else name.removeprefix("HTTP_METHOD_")
    for name, number in common.HttpMethod.items()
}
_CHUNK_TAG = bytes([pb.InvokeResponse.CHUNK_FIELD_NUMBER << 3 | 2])


def invoked_app(caller: Organization, request: pb.InvokeRequest) -> AppRef:
    """Return the app that a call names; it may be of another organisation, the public one."""
    check_app_name(request.app_name, field="app_name")
    organization = OrganizationName(request.organization_name) or caller.name
    return AppRef(organization=organization, name=request.app_name)


def http_call(message: common.HttpContext) -> HttpCall:
    """Return the request of an envelope: the map's headers first, then the list's in order."""
    method = _METHODS.get(message.method)
    if method is None:
        raise InvalidArgument(f"{message.method} is not a known value", field="http.method")
    return HttpCall(
        method=method,
        path=message.path or "/",
        query=message.query,
        headers=(
            *sorted(message.headers.items()),
            *((header.name, header.value) for header in message.header_list),
        ),
    )


def frame(item: Frame) -> pb.InvokeResponse | bytes:
    """Return one frame; a chunk as the bytes of its message.

    By way of a message a chunk would be copied twice more than it has to be.
    """
    match item:
        case Head():
            return pb.InvokeResponse(
                head=pb.InvokeHead(
                    status_code=item.status,
                    response_headers=_joined(item.headers),
                    execution_id=item.execution_id,
                    header_list=_lines(item.headers),
                )
            )
        case Chunk():
            return b"".join((_CHUNK_TAG, _varint(len(item.data)), item.data))
        case Trailer():
            return pb.InvokeResponse(
                trailer=pb.InvokeTrailer(
                    total_body_bytes=item.total_body_bytes,
                    duration_ms=item.duration_ms,
                    trailers=_joined(item.trailers),
                )
            )


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def draft_test(trial: Trial) -> pb.TestDraftResponse:
    """Return the answer of TestDraft."""
    return pb.TestDraftResponse(
        execution=_execution(trial.execution),
        status_code=trial.status,
        response_headers=_joined(trial.headers),
        header_list=_lines(trial.headers),
    )


def version_test(trial: Trial) -> pb.TestAppVersionResponse:
    """Return the answer of TestAppVersion."""
    return pb.TestAppVersionResponse(
        execution=_execution(trial.execution),
        status_code=trial.status,
        response_headers=_joined(trial.headers),
        header_list=_lines(trial.headers),
    )


def _execution(execution: Execution) -> common.Execution:
    outcome = execution.outcome
    return common.Execution(
        id=execution.id,
        app_id=execution.app.id,
        status=number(outcome.status),
        result=outcome.result,
        error=outcome.error,
        metrics=common.ExecutionMetrics(
            cold_start_ms=execution.cold_start_ms,
            execution_ms=execution.execution_ms,
            billed_duration_ms=execution.execution_ms + execution.cold_start_ms,
            result_size_bytes=len(outcome.result),
            resource_tier=execution.tier,
        ),
        started_at_ms=to_ms(execution.started_at),
        completed_at_ms=to_ms(execution.completed_at),
        function_version=execution.version,
        error_class=outcome.error_class.value,
        app_name=execution.app.name,
        error_reason=outcome.error_reason,
    )


def _joined(headers: Headers) -> Mapping[str, str]:
    """Return headers as a map, values of one name joined as HTTP allows."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _lines(headers: Headers) -> list[common.Header]:
    return [common.Header(name=name, value=value) for name, value in headers]
