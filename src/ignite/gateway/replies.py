"""The answers that the gateway makes itself, in the error form of the JSON API (spec 1.8)."""

import json
from dataclasses import dataclass

from ignite.domain.errors import (
    DeadlineExceeded,
    IgniteError,
    Internal,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "ignite.dodil.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An HTTP status with its gRPC number, the reason word and a text that gives nothing away."""

    status: int
    code: int
    reason: str
    message: str


LOCAL = (
    Kind(status=400, code=3, reason="BadRequest", message="The request is malformed."),
    Kind(status=401, code=16, reason="Unauthenticated", message="A valid bearer token is needed."),
    Kind(
        status=403,
        code=7,
        reason="PermissionDenied",
        message="The token does not allow invoking this app.",
    ),
    Kind(status=404, code=5, reason="NotFound", message="Nothing is served here."),
    Kind(
        status=405,
        code=12,
        reason="MethodNotAllowed",
        message="This method is not served here; the header Allow names those that are.",
    ),
    Kind(status=408, code=4, reason="RequestTimeout", message="The request came too slowly."),
    Kind(status=413, code=8, reason="BodyTooLarge", message="The request body is too large."),
    Kind(
        status=415, code=3, reason="UnsupportedMediaType", message="The content type is not served."
    ),
    Kind(
        status=426, code=3, reason="UpgradeRequired", message="The protocol version is not served."
    ),
    Kind(
        status=431, code=8, reason="HeadersTooLarge", message="The request headers are too large."
    ),
    Kind(status=500, code=13, reason="Internal", message="The gateway failed."),
    Kind(status=501, code=12, reason="NotImplemented", message="This is not served."),
    Kind(status=502, code=14, reason="BadGateway", message="The app broke off its answer."),
    Kind(status=503, code=14, reason="Unavailable", message="The app cannot be reached now."),
    Kind(
        status=504,
        code=4,
        reason="DeadlineExceeded",
        message="The app did not answer within its timeout.",
    ),
)
"""What Envoy answers on its own, by status."""


LOST = Kind(
    status=503, code=14, reason="ReplicaFailed", message="The app broke off before it answered."
)
"""A replica took the request and did not answer; in the activator's words."""

NO_KEYS = Kind(
    status=503, code=14, reason="KeysUnavailable", message="Tokens cannot be verified now."
)
NO_TOKEN = Kind(
    status=401, code=16, reason="MissingToken", message="A valid bearer token is needed."
)
EXPIRED = Kind(status=401, code=16, reason="TokenExpired", message="The token has expired.")
"""What Envoy's token filter says in finer words than the status."""


def of_status(status: int) -> Kind:
    """Return Envoy's own answer of that status."""
    return next(kind for kind in LOCAL if kind.status == status)


_STATUSES: dict[type[IgniteError], tuple[int, int]] = {
    Unauthenticated: (401, 16),
    PermissionDenied: (403, 7),
    NotFound: (404, 5),
    ResourceExhausted: (429, 8),
    DeadlineExceeded: (504, 4),
    Unavailable: (503, 14),
    Internal: (500, 13),
}


def status_of(error: IgniteError) -> tuple[int, int]:
    """Return the HTTP status and the gRPC number of an error of the gateway."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), (500, 13))


def error_body(*, code: int, message: str, reason: str) -> bytes:
    """Return the JSON body of an error."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": DOMAIN,
    }
    return json.dumps({"code": code, "message": message, "details": [info]}).encode()
