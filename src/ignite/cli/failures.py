"""How a command fails: one line for the person, an exit code for the program (spec 15).

Foreign exceptions (gRPC's above all) become a `Failure` where they are met, so that the edge in
`root` has one thing to print.
"""

from collections.abc import Iterator, Sequence

import grpc
from google.rpc import (  # type: ignore[import-untyped]  # ships no stubs
    error_details_pb2,
    status_pb2,
)

EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 2,
    grpc.StatusCode.UNAUTHENTICATED: 3,
    grpc.StatusCode.PERMISSION_DENIED: 4,
    grpc.StatusCode.NOT_FOUND: 5,
    grpc.StatusCode.ALREADY_EXISTS: 6,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 7,
    grpc.StatusCode.DEADLINE_EXCEEDED: 8,
    grpc.StatusCode.UNAVAILABLE: 9,
    grpc.StatusCode.INTERNAL: 10,
}
USAGE = 2
UNAUTHENTICATED = 3
UNAVAILABLE = 9
DEADLINE_EXCEEDED = 8
OTHER = 1
INTERRUPTED = 130


UNTRUSTED = (
    "the certificate of {place} is not trusted; GRPC_DEFAULT_SSL_ROOTS_FILE_PATH and SSL_CERT_FILE "
    "name a file of authorities to believe"
)


class Failure(Exception):
    """A command cannot do its job. `reason` is one word, as the server's reasons are."""

    def __init__(
        self, message: str, *, reason: str = "", exit_code: int = OTHER, request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.exit_code = exit_code
        self.request_id = request_id

    def line(self) -> str:
        """Return the failure as one line."""
        text = " ".join(self.message.split())
        return f"Error: {text} ({self.reason})" if self.reason else f"Error: {text}"


class WrongUse(Failure):
    """What was given makes no sense, whatever the server would say."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="InvalidArgument", exit_code=USAGE)


class RpcFailure(Failure):
    """The server refused, or did not answer."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode, reason: str, request_id: str = ""
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            exit_code=EXIT_CODES.get(code, OTHER),
            request_id=request_id,
        )
        self.code = code


def rpc_failure(error: grpc.RpcError, target: str) -> RpcFailure:
    """Return what `error` means to a person; `target` is the address that was called."""
    if not isinstance(error, grpc.Call):
        return RpcFailure(str(error), code=grpc.StatusCode.UNKNOWN, reason="Unknown")
    code = error.code()
    metadata = [*(error.trailing_metadata() or ()), *(error.initial_metadata() or ())]
    request_id = next((_text(value) for key, value in metadata if key == "x-request-id"), "")
    reason = next(_reasons(metadata), "")
    message = error.details() or "no further word"
    if not reason and code is grpc.StatusCode.UNAVAILABLE and _is_distrust(message):
        message = UNTRUSTED.format(place=f"the server at {target}")
    elif not reason and code is grpc.StatusCode.UNAVAILABLE and _is_transport(message):
        message = f"cannot reach the server at {target}; is it running? (`make run` starts one)"
    elif not reason and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = "the server did not finish in time; --timeout gives it longer"
    return RpcFailure(
        message, code=code, reason=reason or camel_case(code.name), request_id=request_id
    )


def camel_case(name: str) -> str:
    """Return `NOT_FOUND` as `NotFound`."""
    return "".join(part.capitalize() for part in name.split("_"))


def _is_distrust(message: str) -> bool:
    marks = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "Peer name")
    return any(mark in message for mark in marks)


def _is_transport(message: str) -> bool:
    marks = ("failed to connect", "Connection", "connection", "DNS", "handshake", "Socket closed")
    return any(mark in message for mark in marks)


def _reasons(metadata: Sequence[tuple[str, str | bytes]]) -> Iterator[str]:
    for key, value in metadata:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.reason:
                yield info.reason


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")
