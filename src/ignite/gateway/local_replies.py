"""What Envoy answers on its own, put into our words: the local replies of both listeners.

The first rule that fits decides, so finer reasons stand before the statuses. They cost only who
gets an error: Envoy looks at them when it makes an answer itself.
"""

import json
from collections.abc import Iterator

from ignite.gateway import names, replies
from ignite.gateway.authorization import Config

_IS_GRPC: Config = {
    "header_filter": {
        "header": {
            "name": "content-type",
            "string_match": {"prefix": "application/grpc"},
        }
    }
}
# The transcoder makes a JSON request look like gRPC; this header is its mark.
_IS_NOT_TRANSCODED: Config = {
    "header_filter": {
        "header": {
            "name": "x-envoy-original-path",
            "present_match": True,
            "invert_match": True,
        }
    }
}


def config() -> Config:
    """Return our error body for Envoy's own errors; gRPC callers keep a status and a plain text."""
    mappers: list[Config] = [*_token_replies(), *_lost_replies()]
    for kind in replies.LOCAL:
        is_status: Config = {
            "status_code_filter": {
                "comparison": {
                    "op": "EQ",
                    "value": {"default_value": kind.status, "runtime_key": f"ignite.{kind.status}"},
                }
            }
        }
        mappers += _both(kind, is_status)
    return {"mappers": mappers}


def _both(kind: replies.Kind, *filters: Config) -> Iterator[Config]:
    """Yield the answers of a kind to what passes all filters: a gRPC caller's, everybody else's."""
    for found, body in (
        ((*filters, _IS_GRPC, _IS_NOT_TRANSCODED), _text(kind)),
        (filters, _json_body(kind)),
    ):
        yield {
            "filter": {"and_filter": {"filters": list(found)}} if found[1:] else found[0],
            "status_code": kind.status,
            "body_format_override": body,
            "headers_to_add": [_mark(kind)],
        }


def _lost_replies() -> Iterator[Config]:
    """Return the answer for a request that a warm app's replica had taken and did not answer.

    The header is set on the way to apps alone. What was never sent is tried again and ends in
    other words; who reads these knows that the handler may have run.
    """
    return _both(
        replies.LOST,
        {"response_flag_filter": {"flags": ["UC", "UR"]}},
        {"header_filter": {"header": {"name": names.FUNCTION_ID, "present_match": True}}},
    )


def _token_replies() -> Iterator[Config]:
    """Yield corrections of what the token filter answers.

    A token for somebody else is a bad token: 401, where Envoy says 403. Where Envoy has no keys
    yet, nothing is wrong with the token: 503, where Envoy says 401. And what a caller can mend
    alone has a word of its own, as at the activator: there is no token, or its time is over.
    """
    for condition, kind in (
        ("response.code == 403", replies.of_status(401)),
        ("response.code_details.contains('Jwks_remote_fetch')", replies.NO_KEYS),
        ("response.code_details.contains('Jwt_is_missing')", replies.NO_TOKEN),
        ("response.code_details.contains('Jwt_is_expired')", replies.EXPIRED),
    ):
        yield from _both(kind, _of_token_filter(condition))


def _of_token_filter(condition: str) -> Config:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3."
                "ExpressionFilter",
                "expression": f"response.code_details.startsWith('jwt_authn') && {condition}",
            },
        }
    }


def _mark(kind: replies.Kind) -> Config:
    return {
        "header": {"key": names.ERROR, "value": kind.reason},
        "append_action": "ADD_IF_ABSENT",
    }


def _text(kind: replies.Kind) -> Config:
    return {"text_format_source": {"inline_string": kind.message}}


def _json_body(kind: replies.Kind) -> Config:
    text = replies.error_body(code=kind.code, message=kind.message, reason=kind.reason)
    return {"json_format": json.loads(text), "content_type": "application/json"}
