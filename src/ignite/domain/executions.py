"""Executions: one run of an app's code, and what its HTTP answer means (design: executions)."""

import base64
import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from http import HTTPStatus

from ignite.domain.apps import AppRef
from ignite.domain.errors import DeadlineExceeded, IgniteError
from ignite.domain.invocations import Headers

COLD_START_WAIT_MS = "x-ignite-cold-start-wait-ms"
"""The gateway's own response header; no replica can send it on."""

MAX_ERROR_CHARS = 4096

_USER_CODE_REASONS = frozenset(
    {
        "BrokenOff",
        "ReplicaFailed",
        "ImportFailed",
        "NoHandler",
        "HandlerMissing",
        "HandlerStuck",
        "Crashed",
        "Exited",
        "OutOfMemory",
        "StartTimeout",
        "ResultTooLarge",
    }
)


_PLATFORM_BUILD_REASONS = frozenset(
    {
        "BuildRefused",
        "Internal",
        "NoToolchain",
        "Platform",
        "RuntimeNotSupported",
        "SandboxFailed",
        "SandboxTooWeak",
        "SourceMissing",
    }
)


class ExecutionStatus(IntEnum):
    """With the wire's numbers."""

    UNSPECIFIED = 0
    PENDING = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    TIMEOUT = 5


class ErrorClass(StrEnum):
    """Whose fault a failure is, in the words of the wire."""

    NONE = ""
    CLIENT = "client"
    USER_CODE = "user_code"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `result` is JSON, empty when there was no answer."""

    status: ExecutionStatus
    result: bytes = field(default=b"", repr=False)
    error: str = ""
    error_reason: str = ""
    error_class: ErrorClass = ErrorClass.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run. Milliseconds are of the run alone; a cold start comes on top."""

    id: str
    app: AppRef
    version: int
    tier: str
    outcome: Outcome
    execution_ms: int
    cold_start_ms: int
    started_at: datetime
    completed_at: datetime


def outcome_of_answer(status: int, headers: Headers, body: bytes) -> Outcome:
    """Return what a whole answer means: 4xx is the caller's fault, 5xx the code's."""
    result = result_json(content_type_of(headers), body)
    if status < HTTPStatus.BAD_REQUEST:
        return Outcome(status=ExecutionStatus.COMPLETED, result=result)
    is_client = status < HTTPStatus.INTERNAL_SERVER_ERROR
    return Outcome(
        status=ExecutionStatus.FAILED,
        result=result,
        error=_error_text(status, result),
        error_reason="RequestRefused" if is_client else "HandlerFailed",
        error_class=ErrorClass.CLIENT if is_client else ErrorClass.USER_CODE,
    )


def outcome_of_failure(error: IgniteError) -> Outcome:
    """Return what it means that no whole answer came."""
    if isinstance(error, DeadlineExceeded):
        is_ours = error.reason == "ColdStartTimeout"
        return timed_out(
            error.message, fault=ErrorClass.PLATFORM if is_ours else ErrorClass.USER_CODE
        )
    return failed(error.message, error.reason)


def failed(message: str, reason: str) -> Outcome:
    """Return a failure; its reason tells whether the code or the platform is at fault."""
    is_user_code = reason in _USER_CODE_REASONS
    return Outcome(
        status=ExecutionStatus.FAILED,
        error=message[:MAX_ERROR_CHARS],
        error_reason=reason,
        error_class=ErrorClass.USER_CODE if is_user_code else ErrorClass.PLATFORM,
    )


def failed_compile(message: str, reason: str) -> Outcome:
    """Return the failure of code that could not be compiled: its own, unless the reason knows."""
    is_platform = reason in _PLATFORM_BUILD_REASONS
    return Outcome(
        status=ExecutionStatus.FAILED,
        error=message[:MAX_ERROR_CHARS],
        error_reason=reason or "CompileFailed",
        error_class=ErrorClass.PLATFORM if is_platform else ErrorClass.USER_CODE,
    )


def timed_out(message: str, *, fault: ErrorClass = ErrorClass.USER_CODE) -> Outcome:
    """Return the end of a run that took too long."""
    return Outcome(
        status=ExecutionStatus.TIMEOUT,
        error=message[:MAX_ERROR_CHARS],
        error_reason="DeadlineExceeded",
        error_class=fault,
    )


def result_json(content_type: str, body: bytes) -> bytes:
    """Return a body as JSON: JSON as it is, text as a string, the rest as a string of base64.

    Without a content type the bytes decide between the last two.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if (kind == "application/json" or kind.endswith("+json")) and _is_json(body):
        return body
    if not kind or kind.startswith("text/") or kind.endswith(("/json", "+json", "/xml", "+xml")):
        try:
            return json.dumps(body.decode()).encode()
        except UnicodeDecodeError:
            pass
    return json.dumps(base64.b64encode(body).decode()).encode()


def content_type_of(headers: Headers) -> str:
    """Return the first content type, "" without one."""
    return next((value for name, value in headers if name == "content-type"), "")


def cold_start_ms_of(headers: Headers) -> int:
    """Return how long the request waited for a start, 0 where the gateway does not say."""
    text = next((value for name, value in headers if name == COLD_START_WAIT_MS), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _error_text(status: int, result: bytes) -> str:
    found = json.loads(result)
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        return str(found["error"])[:MAX_ERROR_CHARS]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "an error"
    return f"the app answered {status} {phrase}"
