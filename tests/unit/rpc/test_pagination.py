"""Cursors and limits."""

import base64
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.errors import InvalidArgument
from ignite.rpc.pagination import (
    MAX_CURSOR_CHARS,
    Part,
    decode_cursor,
    encode_cursor,
    page_limit,
    page_of,
)
from ignite.settings import LimitSettings

LIMITS = LimitSettings(page_size=200, default_page_size=50)

parts = st.one_of(
    st.text(
        alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60
    ),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
)

NAMES = st.text(alphabet="abcz019-.", min_size=1, max_size=40)
CURSOR_CHARS = "ABCZabcz0189-_=+/ \n\0é"


def encoded(value: object) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


class TestLimit:
    @pytest.mark.parametrize(("asked", "got"), [(0, 50), (1, 1), (200, 200), (201, 200)])
    def test_default_and_cap(self, asked: int, got: int) -> None:
        assert page_limit(asked, LIMITS) == got

    def test_negative_is_refused(self) -> None:
        with pytest.raises(InvalidArgument):
            page_limit(-1, LIMITS)


class TestCursor:
    @given(place=st.lists(parts, max_size=4))
    def test_reads_back(self, place: list[Part]) -> None:
        shape = [type(part) for part in place]
        cursor = encode_cursor("apps", place)
        if len(cursor) <= MAX_CURSOR_CHARS:
            assert decode_cursor("apps", cursor, shape) == tuple(place)

    def test_empty_is_the_beginning(self) -> None:
        assert decode_cursor("apps", "", [str]) is None

    @given(cursor=st.text(min_size=1, max_size=100))
    def test_any_other_text_is_invalid_argument(self, cursor: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            decode_cursor("apps", cursor, [str])
        assert caught.value.field == "cursor"

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=6,
        )
    )
    def test_other_json_is_invalid_argument(self, value: object) -> None:
        if isinstance(value, list) and value[:1] == ["apps"]:
            return
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", encoded(value), [str])

    @given(name=NAMES, place=st.integers(min_value=0), char=st.sampled_from(CURSOR_CHARS))
    def test_tampering_gives_another_place_or_a_refusal(
        self, name: str, place: int, char: str
    ) -> None:
        cursor = encode_cursor("apps", [name])
        place %= len(cursor)
        changed = cursor[:place] + char + cursor[place + 1 :]
        try:
            found = decode_cursor("apps", changed, [str])
        except InvalidArgument:
            return
        # Never two cursors for one place, and never a part of another shape.
        assert found is not None
        assert encode_cursor("apps", found) == changed

    @pytest.mark.parametrize(
        ("value", "shape"),
        [
            (["versions", "a"], [str]),
            (["apps"], [str]),
            (["apps", "a", "b"], [str]),
            (["apps", 1], [str]),
            (["apps", "1"], [int]),
            (["apps", True], [int]),
            (["apps", 1.5], [int]),
            (["apps", None], [str]),
            (["apps", 2**63], [int]),
            (["apps", "a\0b"], [str]),
            (["apps", "\ud800"], [str]),
        ],
    )
    def test_wrong_kind_shape_or_value(self, value: object, shape: Sequence[type[Part]]) -> None:
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", encoded(value), shape)

    def test_second_spelling_of_a_cursor_is_refused(self) -> None:
        cursor = encode_cursor("apps", ["a"])
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", cursor + "=", [str])
        spaced = base64.urlsafe_b64encode(b'["apps", "a"]').decode().rstrip("=")
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", spaced, [str])

    def test_long_and_deep_ones_are_refused(self) -> None:
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", encode_cursor("apps", ["x" * 2000]), [str])
        with pytest.raises(InvalidArgument):
            decode_cursor("apps", base64.urlsafe_b64encode(b"[" * 700).decode(), [str])


class TestPage:
    @given(rows=st.lists(st.integers(), max_size=20), limit=st.integers(min_value=1, max_value=20))
    def test_all_rows_come_once_in_order(self, rows: list[int], limit: int) -> None:
        everything = sorted(set(rows))
        seen: list[int] = []
        cursor = ""
        while True:
            place = decode_cursor("n", cursor, [str])
            after = int(place[0]) if place else None
            rest = [row for row in everything if after is None or row > after][: limit + 1]
            page, cursor = page_of("n", rest, limit, lambda row: [str(row)])
            assert len(page) <= limit
            seen += page
            if not cursor:
                break
        assert seen == everything
