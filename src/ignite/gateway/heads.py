"""Heads of HTTP/1.1 messages as bytes: read, changed in a few headers, written again.

The relay passes bodies through untouched, so only heads are ever looked at. Requests come from
Envoy and are well formed; answers come from replicas, are bounded here and parsed again by Envoy.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 128 * 1024

Fields = list[tuple[bytes, bytes]]


class BadHead(Exception):
    """What came is no head of HTTP/1.1, or has no end."""


@dataclass(slots=True)
class Head:
    """A start line and fields; names are in lower case."""

    start: bytes
    fields: Fields

    @property
    def method(self) -> bytes:
        """Return the method of a request."""
        return self.start.partition(b" ")[0]

    @property
    def status(self) -> int:
        """Return the status of an answer."""
        return int(self.start.split(b" ", 2)[1])

    @property
    def is_upgrade(self) -> bool:
        """Tell whether a request asks for another protocol."""
        return any(
            name == b"connection" and b"upgrade" in value.lower() for name, value in self.fields
        )

    def get(self, name: str) -> str:
        """Return the value of the first field of that name, "" without one."""
        wanted = name.encode()
        for found, value in self.fields:
            if found == wanted:
                return value.decode("latin-1")
        return ""

    def without(self, *names: str) -> "Head":
        """Return a head that lacks these fields."""
        drop = {name.encode() for name in names}
        return Head(self.start, [field for field in self.fields if field[0] not in drop])

    def beside(self, fields: Iterable[tuple[str, str]]) -> "Head":
        """Return a head with `fields` beside those of the same names."""
        fresh = [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields]
        return Head(self.start, self.fields + fresh)

    def plus(self, fields: Iterable[tuple[str, str]]) -> "Head":
        """Return a head with `fields` in place of those of the same names."""
        fresh = [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields]
        drop = {name for name, _ in fresh}
        return Head(self.start, [f for f in self.fields if f[0] not in drop] + fresh)

    def encode(self) -> bytes:
        """Return the head as it goes on the wire."""
        lines = [self.start, *(name + b": " + value for name, value in self.fields)]
        return b"\r\n".join(lines) + b"\r\n\r\n"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Return the next head, None where the stream ended before its first byte."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BadHead("the stream ended in a head") from error
    except asyncio.LimitOverrunError as error:
        raise BadHead("the head is too long") from error
    return parse_head(raw)


def parse_head(raw: bytes) -> Head:
    """Return the head in `raw`, which ends with an empty line."""
    start, *lines = raw[:-4].split(b"\r\n")
    words = start.split(b" ", 2)
    if len(words) < 2 or b"HTTP/1." not in start:
        raise BadHead("no start line of HTTP/1")
    if words[0].startswith(b"HTTP/") and not (len(words[1]) == 3 and words[1].isdigit()):
        raise BadHead("no status")
    fields: Fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadHead("a field without a name")
        fields.append((name.lower(), value.strip()))
    return Head(start, fields)
