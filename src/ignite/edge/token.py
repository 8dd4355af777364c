"""The token endpoint: OAuth 2 client credentials, by form fields or basic authentication.

Errors are those of RFC 6749, since OAuth clients read them; what went wrong with a login is never
told apart (unknown account, wrong secret).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl, unquote_plus

from ignite.domain.errors import (
    IgniteError,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from ignite.edge.http import NO_STORE, Answer, Request, json_answer
from ignite.ports.identity import AccessToken

MAX_BODY_BYTES = 16 * 1024
FORM = "application/x-www-form-urlencoded"
_HEADERS: tuple[tuple[bytes, bytes], ...] = (NO_STORE, (b"pragma", b"no-cache"))


class TokenGrant(Protocol):
    """The use case behind the endpoint."""

    async def grant(self, client_id: str, client_secret: str) -> AccessToken:
        """Return a token; raises Unauthenticated, ResourceExhausted or Unavailable."""


class OAuthError(Exception):
    """An error of the protocol: its word, a text and the HTTP status."""

    def __init__(self, word: str, text: str, status: int = 400, retry_after: str = "") -> None:
        super().__init__(text)
        self.word = word
        self.text = text
        self.status = status
        self.retry_after = retry_after


class TokenEndpoint:
    """POST /realms/{realm}/protocol/openid-connect/token."""

    def __init__(self, grant: TokenGrant) -> None:
        self._grant = grant

    async def __call__(self, request: Request) -> None:
        """Serve one request."""
        try:
            token = await self._token(request)
        except OAuthError as error:
            answer = _error_answer(error)
        except IgniteError as error:
            answer = _error_answer(_translate(error))
        else:
            answer = json_answer(
                {
                    "access_token": token.token,
                    "token_type": "Bearer",
                    "expires_in": token.expires_in_secs,
                },
                headers=_HEADERS,
            )
        await answer.send(request.send)

    async def _token(self, request: Request) -> AccessToken:
        kind = request.header(b"content-type").partition(";")[0].strip().lower()
        if kind != FORM:
            raise OAuthError("invalid_request", f"the body must be {FORM}")
        fields = _fields(await request.body(MAX_BODY_BYTES))
        client_id, secret = _credentials(request.header(b"authorization"), fields)
        if not fields.get("grant_type"):
            raise OAuthError("invalid_request", "grant_type is missing")
        if fields["grant_type"] != "client_credentials":
            raise OAuthError("unsupported_grant_type", "only client_credentials is served")
        return await self._grant.grant(client_id, secret)


def _fields(body: bytes) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(
            body.decode(),
            keep_blank_values=True,
            max_num_fields=32,
            strict_parsing=bool(body),
            errors="strict",
        )
    except ValueError as error:
        raise OAuthError("invalid_request", "the form cannot be read") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthError("invalid_request", "a field is given twice")
    return fields


def _credentials(authorization: str, fields: Mapping[str, str]) -> tuple[str, str]:
    in_form = fields.get("client_id", ""), fields.get("client_secret", "")
    if not authorization:
        if not all(in_form):
            raise OAuthError("invalid_client", "client_id and client_secret are needed", 401)
        return in_form
    if in_form[1]:
        raise OAuthError("invalid_request", "credentials are given in two ways")
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        name, colon, secret = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
        name, secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (ValueError, binascii.Error) as error:
        raise OAuthError("invalid_client", "the authorization cannot be read", 401) from error
    if not (name and colon and secret) or in_form[0] not in ("", name):
        raise OAuthError("invalid_client", "the authorization cannot be read", 401)
    return name, secret


def _translate(error: IgniteError) -> OAuthError:
    match error:
        case Unauthenticated():
            return OAuthError("invalid_client", "unknown client or wrong secret", 401)
        case ResourceExhausted():
            after = error.details.get("retry_after_secs", "1")
            return OAuthError("temporarily_unavailable", error.message, 429, after)
        case InvalidArgument():
            return OAuthError("invalid_request", error.message)
        case Unavailable():
            return OAuthError("temporarily_unavailable", "tokens cannot be issued now", 503, "1")
        case _:
            raise error


def _error_answer(error: OAuthError) -> Answer:
    headers = _HEADERS
    if error.status == 401:
        headers = (*headers, (b"www-authenticate", b'Basic realm="ignite"'))
    if error.retry_after:
        headers = (*headers, (b"retry-after", error.retry_after.encode()))
    value = {"error": error.word, "error_description": error.text}
    return json_answer(value, status=error.status, headers=headers)
