"""The only table from errors to gRPC statuses, and the rich details that go with them.

Details follow google.rpc (ErrorInfo, BadRequest) in `grpc-status-details-bin`, so that gRPC clients
and the JSON transcoder show the same reason word and the same field. Metadata has a small bound on
the wire: texts are cut, because a trailer that is too long would replace the error by another one.
"""

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import (  # type: ignore[import-untyped]  # ships no stubs
    error_details_pb2,
    status_pb2,
)

from ignite.domain.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    IgniteError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

DOMAIN = "ignite.dodil.io"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARS = 1024
MAX_DETAIL_CHARS = 256
MAX_DETAILS = 8

CODES: Mapping[type[IgniteError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    Internal: grpc.StatusCode.INTERNAL,
    IgniteError: grpc.StatusCode.INTERNAL,
}


def code_of(error: IgniteError) -> grpc.StatusCode:
    """Return the status of the nearest class in the table."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def number_of(error: IgniteError) -> int:
    """Return the status as the number that JSON bodies carry."""
    return int(code_of(error).value[0])


def message_of(error: IgniteError) -> str:
    """Return the text for the caller, cut to what fits in a trailer."""
    return _cut(error.message, MAX_MESSAGE_CHARS)


def details_bin(error: IgniteError) -> bytes:
    """Return a serialised google.rpc.Status with the reason, the facts and the field."""
    code = number_of(error)
    status = status_pb2.Status(code=code, message=message_of(error))
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata=_facts(error.details)
    )
    status.details.append(_pack(info))
    if isinstance(error, InvalidArgument) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field, MAX_DETAIL_CHARS), description=message_of(error)
        )
        status.details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    return bytes(status.SerializeToString())


def details_json(error: IgniteError) -> list[dict[str, object]]:
    """Return the same details in the JSON form that the transcoder gives them."""
    info: dict[str, object] = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.reason,
        "domain": DOMAIN,
    }
    if facts := _facts(error.details):
        info["metadata"] = facts
    found = [info]
    if isinstance(error, InvalidArgument) and error.field:
        violation = {
            "field": _cut(error.field, MAX_DETAIL_CHARS),
            "description": message_of(error),
        }
        found.append(
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [violation],
            }
        )
    return found


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _facts(details: Mapping[str, str]) -> dict[str, str]:
    pairs = sorted(details.items())[:MAX_DETAILS]
    return {_cut(key, 64): _cut(value, MAX_DETAIL_CHARS) for key, value in pairs}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
