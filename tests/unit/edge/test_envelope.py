"""The JSON envelope: what any JSON may do to its reader, and that bytes read back."""

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.errors import InvalidArgument
from ignite.edge.envelope import names_of, read_envelope
from ignite.edge.http import parse_json

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
http = st.dictionaries(
    st.sampled_from(["method", "path", "query", "headers", "headerList", "header_list"]), anything
)
envelopes = st.dictionaries(
    st.sampled_from(["http", "body", "organizationName", "app_name", "x"]), anything | http
)


@given(envelope=envelopes)
def test_any_envelope_is_read_or_invalid_argument(envelope: dict[str, Any]) -> None:
    try:
        names_of(envelope)
        call, body = read_envelope(envelope)
    except InvalidArgument:
        return
    assert isinstance(call.path, str)
    assert isinstance(body, bytes)


@given(text=st.binary(max_size=200))
def test_any_bytes_are_a_json_object_or_invalid_argument(text: bytes) -> None:
    try:
        value = parse_json(text)
    except InvalidArgument:
        return
    assert isinstance(value, dict)


@given(body=st.binary(max_size=200), url=st.booleans(), padded=st.booleans())
def test_body_reads_back_from_either_alphabet(body: bytes, url: bool, padded: bool) -> None:
    text = (base64.urlsafe_b64encode if url else base64.b64encode)(body).decode()
    envelope = json.loads(json.dumps({"body": text if padded else text.rstrip("=")}))
    assert read_envelope(envelope)[1] == body
