"""The request id: the caller's `x-request-id` if it is a plain word, else a new one.

It goes back in the trailing metadata, which costs no extra message and keeps an early error a
trailers-only answer, which is what lets the JSON transcoder set the HTTP status.
"""

import re
import secrets
from contextvars import ContextVar

from ignite.rpc.handlers import Context

KEY = "x-request-id"

_NEW_BYTES = 13
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_current: ContextVar[str] = ContextVar("ignite_request_id", default="")


def request_id() -> str:
    """Return the id of the request this task serves, "" outside of one."""
    return _current.get()


def accept_request_id(given: str) -> str:
    """Return `given` if it is safe to log and to echo, else a new id."""
    return given if _PLAIN.fullmatch(given) else f"req_{secrets.token_hex(_NEW_BYTES)}"


def identify(context: Context) -> str:
    """Give a call its id, which logs, errors and the answer share; return it."""
    identifier = accept_request_id(metadata_value(context, KEY))
    _current.set(identifier)
    context.set_trailing_metadata(((KEY, identifier),))
    return identifier


def metadata_value(context: Context, key: str) -> str:
    """Return the only value of `key` in the call's metadata, "" when absent, doubled or binary."""
    found = [value for name, value in context.invocation_metadata() or () if name == key]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
