"""What Envoy answers on its own, put into our words: the local replies of both listeners.

The first rule that fits decides, so finer reasons stand before the statuses. They cost only who
gets an error: Envoy looks at them when it makes an answer itself.
"""

import json

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


def config() -> Config:
    """Return our error body for Envoy's own errors; gRPC callers keep a status and a plain text."""
    mappers: list[Config] = [*_token_replies(), *_lost_replies()]
    # The transcoder makes a JSON request look like gRPC; this header is its mark.
    not_transcoded = {
        "header_filter": {
            "header": {
                "name": "x-envoy-original-path",
                "present_match": True,
                "invert_match": True,
            }
        }
    }
    for kind in replies.LOCAL:
        is_status = {
            "status_code_filter": {
                "comparison": {
                    "op": "EQ",
                    "value": {"default_value": kind.status, "runtime_key": f"ignite.{kind.status}"},
                }
            }
        }
        mappers.append(
            {
                "filter": {"and_filter": {"filters": [is_status, _IS_GRPC, not_transcoded]}},
                "body_format_override": _text(kind),
                "headers_to_add": [_mark(kind)],
            }
        )
        mappers.append(
            {
                "filter": is_status,
                "body_format_override": _json_body(kind),
                "headers_to_add": [_mark(kind)],
            }
        )
    return {"mappers": mappers}


def _lost_replies() -> list[Config]:
    """Return the answer for a request that a warm app's replica had taken and did not answer.

    The header is set on the way to apps alone. What was never sent is tried again and ends in
    other words; who reads these knows that the handler may have run.
    """
    is_lost: list[Config] = [
        {"response_flag_filter": {"flags": ["UC", "UR"]}},
        {"header_filter": {"header": {"name": names.FUNCTION_ID, "present_match": True}}},
    ]
    kind = replies.LOST
    return [
        {
            "filter": {"and_filter": {"filters": [*is_lost, *extra]}},
            "status_code": kind.status,
            "body_format_override": body,
            "headers_to_add": [_mark(kind)],
        }
        for extra, body in (([_IS_GRPC], _text(kind)), ([], _json_body(kind)))
    ]


def _token_replies() -> list[Config]:
    """Return corrections of what the token filter answers.

    A token for somebody else is a bad token: 401, where Envoy says 403. Where Envoy has no keys
    yet, nothing is wrong with the token: 503, where Envoy says 401. And what a caller can mend
    alone has a word of its own, as at the activator: there is no token, or its time is over.
    """
    found: list[Config] = []
    for condition, kind in (
        ("response.code == 403", replies.of_status(401)),
        ("response.code_details.contains('Jwks_remote_fetch')", replies.NO_KEYS),
        ("response.code_details.contains('Jwt_is_missing')", replies.NO_TOKEN),
        ("response.code_details.contains('Jwt_is_expired')", replies.EXPIRED),
    ):
        is_grpc = "request.headers['content-type'].startsWith('application/grpc')"
        found.append(_correction(f"{condition} && {is_grpc}", kind, _text(kind)))
        found.append(_correction(condition, kind, _json_body(kind)))
    return found


def _correction(condition: str, kind: replies.Kind, body: Config) -> Config:
    expression = f"response.code_details.startsWith('jwt_authn') && {condition}"
    return {
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3."
                    "ExpressionFilter",
                    "expression": expression,
                },
            }
        },
        "status_code": kind.status,
        "body_format_override": body,
        "headers_to_add": [_mark(kind)],
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
