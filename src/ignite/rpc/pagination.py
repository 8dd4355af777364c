"""Pages: `limit` and an opaque `cursor` in, `next_cursor` out (spec 1.6).

A cursor names the last row that was seen, so that rows added or removed meanwhile neither repeat
nor hide others. It is no secret and not signed: all it can do is say where to go on reading what
the caller may read anyway. It is checked all the same, since it is outside input.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from ignite.domain.errors import InvalidArgument
from ignite.settings import LimitSettings

MAX_CURSOR_CHARS = 1024

Part = str | int
T = TypeVar("T")


def page_limit(asked: int, limits: LimitSettings) -> int:
    """Return the page's size: the default for 0, the cap for more than it."""
    if asked < 0:
        raise InvalidArgument("must not be negative", field="limit")
    return min(asked or limits.default_page_size, limits.page_size)


def encode_cursor(kind: str, parts: Sequence[Part]) -> str:
    """Return the cursor behind a row of a list of `kind`, whose place is `parts`."""
    text = json.dumps([kind, *parts], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str, shape: Sequence[type[Part]]) -> tuple[Part, ...] | None:
    """Return the parts of `cursor`, None for an empty one.

    Raises InvalidArgument for anything that `encode_cursor` did not make for a list of this kind.
    """
    if not cursor:
        return None
    wrong = InvalidArgument("is not one that this list gave", field="cursor")
    if len(cursor) > MAX_CURSOR_CHARS:
        raise wrong
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        decoded = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, RecursionError):
        raise wrong from None
    if not isinstance(decoded, list) or decoded[:1] != [kind]:
        raise wrong
    parts = decoded[1:]
    if len(parts) != len(shape) or any(
        type(part) is not kind_of for part, kind_of in zip(parts, shape, strict=True)
    ):
        raise wrong
    if any(_is_unstorable(part) for part in parts) or encode_cursor(kind, parts) != cursor:
        raise wrong
    return tuple(parts)


def page_of(
    kind: str, rows: Sequence[T], limit: int, place: Callable[[T], Sequence[Part]]
) -> tuple[Sequence[T], str]:
    """Return the page and its `next_cursor` from up to `limit + 1` rows that were read."""
    if len(rows) <= limit:
        return rows, ""
    page = rows[:limit]
    return page, encode_cursor(kind, place(page[-1]))


def _is_unstorable(part: Part) -> bool:
    """Tell what Postgres refuses: NUL and lone surrogates in text, more than 64 bits."""
    if isinstance(part, int):
        return not -(2**63) <= part < 2**63
    return "\0" in part or any("\ud800" <= char <= "\udfff" for char in part)
