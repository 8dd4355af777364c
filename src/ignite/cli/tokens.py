"""Bearer tokens: what their claims say, and a new one when the old one ends.

Tokens live 15 minutes at most, so whoever holds a service account's credentials exchanges them
again instead of failing. Claims are read without verification: they only decide what to ask for.
"""

import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ignite.cli.endpoints import http_base, is_loopback
from ignite.cli.failures import OTHER, UNAUTHENTICATED, UNAVAILABLE, UNTRUSTED, Failure

TOKEN_PATH = "/realms/dodil/protocol/openid-connect/token"  # noqa: S105 - a path
SKEW_SECS = 30.0
MAX_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A service account, and where it gets tokens."""

    client_id: str
    client_secret: str
    http_endpoint: str

    def __repr__(self) -> str:
        return f"Credentials({self.client_id})"


class Bearer:
    """Gives a token that is good for the next call."""

    def __init__(
        self,
        token: str,
        credentials: Credentials | None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._token = token
        self._credentials = credentials
        self._now = now

    def token(self) -> str:
        """Return the token, exchanged anew when it has ended or is missing."""
        if self._token and not self._has_ended():
            return self._token
        if self._credentials is not None:
            self._token = exchange(self._credentials)
        if not self._token:
            raise Failure(
                "no token: run `ignite login`, or give --token or IGNITE_TOKEN",
                reason="Unauthenticated",
                exit_code=UNAUTHENTICATED,
            )
        return self._token

    def _has_ended(self) -> bool:
        if self._credentials is None:
            return False
        ends = claims(self._token).get("exp")
        return isinstance(ends, int | float) and ends - SKEW_SECS <= self._now()


def claims(token: str) -> Mapping[str, object]:
    """Return the claims of a JWT, nothing for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        body = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def organizations(token: str) -> Mapping[str, str]:
    """Return the names of the token's organisations with their ids."""
    found = claims(token)
    listed = found.get("organization")
    if isinstance(listed, dict) and listed:
        return {
            str(name): str(about.get("id", "")) if isinstance(about, dict) else ""
            for name, about in listed.items()
        }
    name = found.get("org_name")
    return {str(name): str(found.get("org_id", ""))} if name else {}


def exchange(credentials: Credentials) -> str:
    """Trade a service account's secret for a token (OAuth client credentials)."""
    url = http_base(credentials.http_endpoint) + TOKEN_PATH
    form = urllib.parse.urlencode(
        {
            "grant_type": "client_credentials",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
        }
    ).encode()
    host = urllib.parse.urlsplit(url).hostname or ""
    handlers = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(url, data=form, timeout=30) as answer:
            body = answer.read(MAX_ANSWER)
    except urllib.error.HTTPError as error:
        raise _refused(error) from error
    except OSError as error:
        place = f"the token endpoint at {host}"
        distrust = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
        raise Failure(
            UNTRUSTED.format(place=place) if distrust else f"cannot reach {place}",
            reason="Unavailable",
            exit_code=UNAVAILABLE,
        ) from error
    try:
        token = json.loads(body)["access_token"]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure("the token endpoint answered no token", reason="Unknown") from error
    return str(token)


def _refused(error: urllib.error.HTTPError) -> Failure:
    with error:
        error.read(MAX_ANSWER)
    if error.code in (400, 401, 403):
        return Failure(
            "the service account's id or secret is not right",
            reason="Unauthenticated",
            exit_code=UNAUTHENTICATED,
        )
    unavailable = error.code in (502, 503, 504)
    return Failure(
        f"the token endpoint answered HTTP {error.code}",
        reason="Unavailable" if unavailable else "Unknown",
        exit_code=UNAVAILABLE if unavailable else OTHER,
    )
