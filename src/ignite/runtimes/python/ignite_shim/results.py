"""What a handler returns, as bytes and a content type (the contract of the Python runtime)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

_OURS = os.path.dirname(__file__)


def encode(result: Any) -> tuple[bytes, str]:
    """Return the body and its type."""
    if isinstance(result, bytes):
        return result, BYTES
    if isinstance(result, str):
        return result.encode("utf-8"), TEXT
    if isinstance(result, (bytearray, memoryview)):
        return bytes(result), BYTES
    return json.dumps(result).encode("utf-8"), JSON


def encode_item(item: Any) -> tuple[bytes, str]:
    """Return one chunk of a stream and its type."""
    if isinstance(item, (bytes, str, bytearray, memoryview)):
        return encode(item)
    raise TypeError(f"a stream yields bytes or str, not {type(item).__name__}")


def failure(error: BaseException) -> tuple[bytes, str]:
    """Return the answer to a handler's exception, and write it to the app's log. Never raises.

    An exception is an app's object too: it may fail to say what it is, or be out of memory.
    """
    try:
        text = trace_of(error)
        answer = {"error": str(error), "type": type(error).__name__, "traceback": text}
        data = json.dumps(answer).encode("utf-8")
    except BaseException:  # noqa: BLE001 - see above
        text = f"{type(error).__name__} (it cannot be shown)\n"
        answer = {"error": "it cannot be shown", "type": type(error).__name__, "traceback": text}
        data = json.dumps(answer).encode("utf-8")
    log(text)
    return data, JSON


def trace_of(error: BaseException) -> str:
    """Return a trace that begins in the app's own code."""
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _OURS:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def log(text: str) -> None:
    """Write to the app's log, unless the app has closed or replaced it by something else."""
    with contextlib.suppress(Exception):
        sys.stderr.write(text)
        sys.stderr.flush()


def platform_error(text: str, kind: str) -> tuple[bytes, str]:
    """Return the body of an answer that is the platform's, not the app's."""
    return json.dumps({"error": text, "type": kind}).encode("utf-8"), JSON
