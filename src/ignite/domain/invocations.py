"""One call of an app in its envelope, and the frames of its answer (spec 3.5, 4.7).

What a caller puts into the envelope goes on a wire as HTTP/1.1, so everything that could end a
line, start another request, or speak to the proxies on the way is refused or left out here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ignite.domain.errors import InvalidArgument

Headers = tuple[tuple[str, str], ...]

METHODS = frozenset({"POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
MAX_TARGET_CHARS = 8192
MAX_HEADERS = 100
MAX_HEADER_CHARS = 32 * 1024

# RFC 9110, 7.6.1, and what our own hop sets anew.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS = frozenset({"host", "content-length", "expect", "x-organization-name"})
# Envoy obeys x-envoy-* of internal callers: timeouts, retries, destinations.
_OUR_PREFIXES = ("x-ignite-", "x-envoy-")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """The request as its caller wrote it."""

    method: str = "POST"
    path: str = "/"
    query: str = ""
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first frame: the app's own status and headers. A status over 299 is no error of ours."""

    status: int
    headers: Headers
    execution_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes of the body, in order."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """The last frame of an answer that came whole. The duration includes any cold start."""

    total_body_bytes: int
    duration_ms: int
    trailers: Headers


Frame = Head | Chunk | Trailer


def method_of(http: HttpCall) -> str:
    """Return the method to send; refuses what the contract does not name."""
    method = http.method or "POST"
    if method not in METHODS:
        raise InvalidArgument(f"must be one of {', '.join(sorted(METHODS))}", field="http.method")
    return method


def target_of(http: HttpCall) -> str:
    """Return path and query as they go on the request line."""
    path = http.path or "/"
    if not path.startswith("/"):
        raise InvalidArgument("must start with '/'", field="http.path")
    if not _PATH.fullmatch(path):
        raise InvalidArgument(
            "must be printable ASCII without spaces, '?' or '#'; percent-encode the rest",
            field="http.path",
        )
    if not _QUERY.fullmatch(http.query):
        raise InvalidArgument(
            "must be printable ASCII without spaces or '#'; percent-encode the rest",
            field="http.query",
        )
    target = f"{path}?{http.query}" if http.query else path
    if len(target) > MAX_TARGET_CHARS:
        raise InvalidArgument(
            f"path and query must be at most {MAX_TARGET_CHARS} characters", field="http.path"
        )
    return target


def headers_of(http: HttpCall) -> Headers:
    """Return the headers to send: checked, in lower case, without those of one hop and ours."""
    if len(http.headers) > MAX_HEADERS:
        raise InvalidArgument(f"must be at most {MAX_HEADERS} headers", field="http.headers")
    if sum(len(name) + len(value) for name, value in http.headers) > MAX_HEADER_CHARS:
        raise InvalidArgument(
            f"must be at most {MAX_HEADER_CHARS} characters", field="http.headers"
        )
    for name, value in http.headers:
        if not _TOKEN.fullmatch(name):
            raise InvalidArgument(f"the name {name[:40]!r} is no header name", field="http.headers")
        if not _VALUE.fullmatch(value):
            raise InvalidArgument(
                f"the value of {name[:40]!r} holds control or non-Latin-1 characters",
                field="http.headers",
            )
    lowered = tuple((name.lower(), value.strip(" \t")) for name, value in http.headers)
    return tuple((name, value) for name, value in end_to_end(lowered) if not _is_ours(name))


def end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers (names in lower case) without those that are for one hop alone."""
    kept = tuple(headers)
    named = {
        word.strip().lower()
        for name, value in kept
        if name == "connection"
        for word in value.split(",")
    }
    return tuple(pair for pair in kept if pair[0] not in _HOP_BY_HOP and pair[0] not in named)


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(_OUR_PREFIXES)
