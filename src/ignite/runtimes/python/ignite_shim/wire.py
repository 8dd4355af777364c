"""HTTP/1.1 as the replica reads it: strict, bounded, without I/O.

What two parsers could read differently is refused: the gateway before us has read it as well.
"""

from __future__ import annotations

import re

MAX_HEAD_BYTES = 96 * 1024
MAX_CHUNK_LINE_BYTES = 4096

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT_BYTES = bytes([9, *range(32, 127), *range(128, 256)])
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")


REASONS = {
    200: "OK",
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


class Refused(Exception):
    """A request that HTTP does not allow, or that is over a bound; the connection ends with it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Head:
    """The head of one request, reduced to what the shim acts on."""

    __slots__ = ("expects", "headers", "http10", "keep_alive", "length", "method", "path")

    def __init__(self, raw: bytes) -> None:
        lines = raw.split(b"\r\n")
        # Without all text only the line ends are left, one fewer than there are lines.
        if raw.translate(None, _TEXT_BYTES) != b"\r\n" * (len(lines) - 1):
            raise Refused(400, "control character in the request head")
        self.method, self.path, self.http10 = _request_line(lines[0])
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not _is_token(name):
                raise Refused(400, "malformed header line")
            name = name.lower()
            value = value.strip(b" \t")
            if name in headers:
                if name == b"content-length":
                    raise Refused(400, "more than one Content-Length")
                value = headers[name] + b", " + value
            headers[name] = value
        self.headers = headers
        self.length = _body_length(headers, self.http10)
        self.keep_alive = not self.http10 and not _closes(headers.get(b"connection"))
        self.expects = not self.http10 and headers.get(b"expect", b"").lower() == b"100-continue"

    def text(self, name: bytes, default: str) -> str:
        """Return a header as text."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")


def _is_token(name: bytes) -> bool:
    return bool(name) and not name.translate(None, _TOKEN_BYTES)


def _closes(options: bytes | None) -> bool:
    if options is None:
        return False
    return b"close" in [option.strip() for option in options.lower().split(b",")]


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _is_token(parts[0]) or b"\t" in line:
        raise Refused(400, "malformed request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
            raise Refused(505, "only HTTP/1.1 is spoken here")
        raise Refused(400, "malformed request line")
    if not target.startswith(b"/") and target != b"*":
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise Refused(400, "malformed request target")
        target = b"/" + rest.partition(b"/")[2]
    return method, target.partition(b"?")[0], version == b"HTTP/1.0"


def _body_length(headers: dict[bytes, bytes], http10: bool) -> int:
    """Return the length of the body, -1 for chunked; two ways to tell it are an attack."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None or http10:
            raise Refused(400, "Transfer-Encoding beside Content-Length or in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise Refused(501, "no transfer coding but chunked is known here")
        return -1
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise Refused(400, "malformed Content-Length")
    return int(length)


class Body:
    """Collects one request body out of the connection's buffer."""

    __slots__ = ("_chunked", "_left", "_limit", "_line", "_trailer", "data")

    def __init__(self, length: int, limit: int) -> None:
        if length > limit:
            raise Refused(413, f"body over {limit} bytes")
        self.data = bytearray()
        self._chunked = length < 0
        self._left = max(length, 0)
        self._limit = limit
        self._line = b"size"
        self._trailer = 0

    def feed(self, buffer: bytearray) -> bool:
        """Take what belongs to the body out of `buffer`; True once the body is complete."""
        if not self._chunked:
            self._take(buffer)
            return self._left == 0
        while True:
            if self._left:
                self._take(buffer)
                if self._left:
                    return False
                self._line = b"end"
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > MAX_CHUNK_LINE_BYTES:
                    raise Refused(400, "overlong chunk line")
                return False
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._on_line(line):
                return True

    def forget(self) -> None:
        """Drop what was collected: nobody wants the body any more."""
        self.data.clear()

    def _take(self, buffer: bytearray) -> None:
        part = buffer[: self._left]
        self.data += part
        self._left -= len(part)
        del buffer[: len(part)]

    def _on_line(self, line: bytes) -> bool:
        if self._line == b"end":
            if line:
                raise Refused(400, "chunk longer than its size")
            self._line = b"size"
        elif self._line == b"trailer":
            self._trailer += len(line)
            if self._trailer > MAX_HEAD_BYTES:
                raise Refused(431, "trailers over their bound")
            return not line
        else:
            match = _CHUNK_SIZE.fullmatch(line)
            if not match:
                raise Refused(400, "malformed chunk size")
            self._left = int(match.group(1), 16)
            if len(self.data) + self._left > self._limit:
                raise Refused(413, f"body over {self._limit} bytes")
            if not self._left:
                self._line = b"trailer"
        return False
