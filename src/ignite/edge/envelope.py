"""Reads the JSON form of InvokeRequest: camelCase or snake_case, bytes as base64, enums by name.

Read by hand and not through the message, so that the edge needs no protobuf; unknown fields are
ignored, as the transcoder does on all other paths.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from ignite.domain.errors import InvalidArgument
from ignite.domain.invocations import METHODS, HttpCall

_NUMBERS = ("", "POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_PREFIX = "HTTP_METHOD_"


def read_envelope(value: Mapping[str, Any]) -> tuple[HttpCall, bytes]:
    """Return the call and its body; raises InvalidArgument naming the field."""
    http = value.get("http")
    if http is None:
        http = {}
    if not isinstance(http, dict):
        raise InvalidArgument("must be an object", field="http")
    call = HttpCall(
        method=_method(http.get("method")),
        path=_text(http, "path"),
        query=_text(http, "query"),
        headers=(
            *_headers(http.get("headers")),
            *_lines(http.get("headerList", http.get("header_list"))),
        ),
    )
    return call, _bytes(value.get("body"))


def names_of(value: Mapping[str, Any]) -> tuple[str, str]:
    """Return organisation and app as the body names them, "" where it does not."""
    return (
        _either(value, "organizationName", "organization_name"),
        _either(value, "appName", "app_name"),
    )


def _either(value: Mapping[str, Any], camel: str, snake: str) -> str:
    found = value.get(camel, value.get(snake, ""))
    if not isinstance(found, str):
        raise InvalidArgument("must be a string", field=snake)
    return found


def _method(value: object) -> str:
    if value is None:
        return "POST"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_NUMBERS):
        return _NUMBERS[value] or "POST"
    if isinstance(value, str):
        name = value.removeprefix(_PREFIX)
        if name in METHODS:
            return name
        if name in ("", "UNSPECIFIED"):
            return "POST"
    raise InvalidArgument("is no method of this contract", field="http.method")


def _text(http: Mapping[str, Any], name: str) -> str:
    value = http.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument("must be a string", field=f"http.{name}")
    return value


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise InvalidArgument("must be an object of strings", field="http.headers")
    return tuple(value.items())


def _lines(value: object) -> tuple[tuple[str, str], ...]:
    """Read the list form, for names that repeat."""
    if value is None:
        return ()
    wrong = InvalidArgument("must be a list of name and value", field="http.header_list")
    if not isinstance(value, list):
        raise wrong
    found = []
    for line in value:
        if not isinstance(line, dict):
            raise wrong
        name, text = line.get("name", ""), line.get("value", "")
        if not isinstance(name, str) or not isinstance(text, str):
            raise wrong
        found.append((name, text))
    return tuple(found)


def _bytes(value: object) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise InvalidArgument("must be a base64 string", field="body")
    try:
        # JSON of protobuf takes both alphabets, with and without padding.
        text = value.encode("ascii").rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (UnicodeError, binascii.Error) as error:
        raise InvalidArgument("must be a base64 string", field="body") from error
