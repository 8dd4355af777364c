"""Bodies that are no JSON, or are it in a way that hurts a parser, to both readers of JSON: the
transcoder before the API, and the edge that serves Invoke and tokens."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.server import Answer, Server
from tests.limits.apps import App, call
from tests.limits.wire import check_error, check_words

BAD: dict[str, bytes] = {
    "lists in lists": b'{"name":"x","tags":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects in objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "no end": b'{"name":"x"',
    "two values": b'{"name":"x"} {"name":"y"}',
    "a comment": b'{"name":"x"/* y */}',
    "bytes that are no UTF-8": b'{"name":"\xff\xfe"}',
    "an overlong NUL": b'{"name":"\xc0\x80"}',
    "a list": b"[1]",
    "a text": b'"x"',
    "a number": b"1",
    "true": b"true",
    "null": b"null",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "NUL": b"\0",
}
# Good JSON for who knows no types, but not for the fields of a message.
WRONG: dict[str, bytes] = {
    "a number beyond all": b'{"name":"x","max_concurrency":' + b"9" * 4000 + b"}",
    "a float beyond all": b'{"name":"x","max_concurrency":1e400}',
    "a negative number": b'{"name":"x","max_concurrency":-1}',
    "a fraction": b'{"name":"x","max_concurrency":1.5}',
    "not a number": b'{"name":"x","max_concurrency":NaN}',
    "infinity": b'{"name":"x","max_concurrency":Infinity}',
    "half a surrogate": b'{"name":"\\ud800"}',
    "NUL in a name": b'{"name":"a\\u0000b"}',
    "NUL in a text": b'{"name":"x","description":"a\\u0000b"}',
    "NUL in env": b'{"name":"x","env":{"A":"\\u0000"}}',
    "an object for a text": b'{"name":{"a":1}}',
    "a list for an object": b'{"name":"x","env":[1]}',
    "no base64": b'{"name":"x","code":{"compile":{"archive":"!"}}}',
    "two sources": b'{"name":"x","code":{"compile":{},"image":{}}}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
}
JSON_HEAD = {"content-type": "application/json"}


def post(server: Server, path: str, body: bytes) -> Answer:
    return server.http("POST", path, body, headers=JSON_HEAD)


@pytest.mark.parametrize("name", [*BAD, *WRONG])
def test_the_api_refuses_it(server: Server, name: str) -> None:
    answer = post(server, f"/v1/ignite/app/{server.org}", {**BAD, **WRONG}[name])
    assert answer.status == 400
    assert check_error(answer.status, answer.body)["code"] == 3


@pytest.mark.parametrize("name", BAD)
def test_invoke_refuses_it(server: Server, echo: App, name: str) -> None:
    answer = post(server, f"/v1/ignite/app/{server.org}/echo/invoke", BAD[name])
    assert answer.status == 400
    assert check_error(answer.status, answer.body)["code"] == 3


@pytest.mark.parametrize(
    "body", [*BAD.values(), b"a=%ff&b", b"=&=&=", b"grant_type=x&grant_type=y"]
)
def test_the_token_endpoint_refuses_it(server: Server, body: bytes) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    path = "/realms/dodil/protocol/openid-connect/token"
    answer = server.http("POST", path, body[:10_000], headers=form, token=None)
    assert answer.status == 400
    assert answer.json()["error"] in ("invalid_request", "unsupported_grant_type")
    check_words(answer.body)


def test_a_field_given_twice_is_one_value_for_everybody(server: Server) -> None:
    """No two readers of a body may see different apps in it: there is only one reader."""
    answer = post(server, f"/v1/ignite/app/{server.org}", b'{"name":"first","name":"second"}')
    assert answer.json()["appId"] == f"{server.org}/second"
    try:
        assert server.http("GET", f"/v1/ignite/app/{server.org}/first").status == 404
    finally:
        call(server, "DeleteApp", {"organization_name": server.org, "app_name": "second"})


def test_a_body_leads_to_no_other_organisation_than_the_tokens(server: Server, echo: App) -> None:
    body = json.dumps({"organization_name": "globex", "app_name": "other"}).encode()
    answer = post(server, f"/v1/ignite/app/{server.org}/echo/draft/publish", body)
    assert (answer.status, answer.json()["code"]) == (403, 7)
    answer = post(server, f"/v1/ignite/app/{server.org}/echo/invoke", body)
    assert (answer.status, answer.json()["code"]) == (400, 3)


NAMES = ["name", "env", "limits", "scaling", "code", "tags", "ports", "health_path", "runtime"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
SLOW = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SLOW
@given(fields=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_any_json_is_taken_or_refused_as_the_callers_mistake(
    server: Server, fields: dict[str, Any]
) -> None:
    body = json.dumps({**fields, "name": fields.get("name", "Not-A-Name")}).encode()
    answer = post(server, f"/v1/ignite/app/{server.org}", body)
    if answer.status == 200:
        call(server, "DeleteApp", {"organization_name": server.org, "app_name": fields["name"]})
    else:
        check_error(answer.status, answer.body)


@SLOW
@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_as_the_callers_mistake(server: Server, body: bytes) -> None:
    for path in (f"/v1/ignite/app/{server.org}", f"/v1/ignite/app/{server.org}/no-app/invoke"):
        answer = post(server, path, body)
        check_error(answer.status, answer.body)
