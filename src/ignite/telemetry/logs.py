"""Logs: one JSON object a line, message constant, facts beside it, and no secret in either.

Redaction is the last step before the stream and works on the text, so that it also covers traces
and messages of libraries. It is the net below the rule that nobody logs a secret at all.
"""

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import TextIOBase
from typing import TextIO

REDACTED = "[redacted]"

_SECRETS = re.compile(
    r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"  # JWT
    r"|\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}"  # tokens of Vault and OpenBao
    r"|(?<=://)[^/\s:@\"']*:[^/\s@\"']+(?=@)"  # user:password of a URL
    r"|(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9+/._~=-]{6,}"
)
_SECRET_KEY = re.compile(
    r"password|passwd|secret_id|client_secret|secret_value|token$|authorization|private_key|cookie"
    r"|api_?key",
    re.IGNORECASE,
)
_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


def redact(text: str) -> str:
    """Return `text` without anything that looks like a credential."""
    return _SECRETS.sub(REDACTED, text)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    `request_id` tells the id of the request that the current task serves, "" for none.
    """

    def __init__(self, role: str, request_id: Callable[[], str] = str) -> None:
        super().__init__()
        self._role = role
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if current := self._request_id():
            line["request_id"] = current
        for key, value in record.__dict__.items():
            if key not in _PLAIN:
                line[key] = REDACTED if _SECRET_KEY.search(key) else _plain(value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = redact(record.stack_info)
        return json.dumps(line, ensure_ascii=False, default=_text)


def _plain(value: object) -> object:
    """Make a value fit for JSON; texts are redacted at any depth."""
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {
                str(key): REDACTED if _SECRET_KEY.search(str(key)) else _plain(item)
                for key, item in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return _text(value)


def _text(value: object) -> str:
    return redact(str(value))


def configure(
    level: str,
    role: str,
    *,
    request_id: Callable[[], str] = str,
    stream: TextIO | TextIOBase | None = None,
) -> None:
    """Send all logs of this process to `stream` (stderr) as JSON; replaces earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role, request_id))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Talks at INFO about every connection, and names query strings at DEBUG.
    for noisy in ("urllib3", "asyncio", "hpack", "sqlalchemy.engine"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
