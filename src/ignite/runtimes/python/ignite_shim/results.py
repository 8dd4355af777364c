"""What a handler returns, as bytes and a content type (the contract of the Python runtime)."""

from __future__ import annotations

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
    """Return the answer to a handler's exception, and write it to the app's log."""
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _OURS:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    text = "".join(lines)
    sys.stderr.write(text)
    sys.stderr.flush()
    answer = {"error": str(error), "type": type(error).__name__, "traceback": text}
    return json.dumps(answer).encode("utf-8"), JSON


def platform_error(text: str, kind: str) -> tuple[bytes, str]:
    """Return the body of an answer that is the platform's, not the app's."""
    return json.dumps({"error": text, "type": kind}).encode("utf-8"), JSON
