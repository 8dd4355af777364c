"""Decides whether a token is to be believed.

The algorithm comes from the key that the id names, never from the token; keys that a token brings
along (jwk, jku, x5u, x5c) are not looked at; a header with `crit` is refused. Time is checked here
and not by the library, so that one clock rules.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf, isfinite
from typing import Any, TypeVar

import jwt

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import Principal
from ignite.identity.claims import ReadPrincipal
from ignite.identity.jwks import KeySource, VerificationKey
from ignite.ports.identity import TokenVerifier

MAX_TOKEN_CHARS = 8192
REMEMBERED = 1024
LEEWAY_SECS = 5

_T = TypeVar("_T")

_OPTIONS: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Believed:
    key: VerificationKey
    principal: Principal
    begins: float
    ends: float


class JwtVerifier:
    """Believes the tokens of one issuer."""

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str,
        read: ReadPrincipal,
        clock: Callable[[], datetime],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._read = read
        self._clock = clock
        self._seen: OrderedDict[str, _Believed] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """See ports.identity.TokenVerifier."""
        seen = self._seen.get(token)
        if seen is not None and await self._keys.find(seen.key.id) is seen.key:
            # Tokens come many times: what was good stays so while its key is still the one that
            # its id names. Time goes on, and is asked every time.
            self._check_time(seen)
            return seen.principal
        believed = self._believe(*await self._decode(token))
        self._check_time(believed)
        _remember(self._seen, token, believed)
        return believed.principal

    async def _decode(self, token: str) -> tuple[VerificationKey, Mapping[str, Any]]:
        header = _header(token)
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise Unauthenticated("the token names no key")
        key = await self._keys.find(key_id)
        if key is None:
            raise Unauthenticated("the token's key is not known")
        if header.get("alg") not in key.algorithms:
            raise Unauthenticated("the token's algorithm is not accepted")
        try:
            claims = jwt.decode(token, key.key, algorithms=list(key.algorithms), options=_OPTIONS)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated("the token's signature is not good") from error
        return key, claims

    def _believe(self, key: VerificationKey, claims: Mapping[str, Any]) -> _Believed:
        if claims.get("iss") != self._issuer:
            raise Unauthenticated("the token is of another issuer")
        audience = claims.get("aud")
        names = audience if isinstance(audience, list) else [audience]
        if self._audience not in names:
            raise Unauthenticated("the token is for another audience")
        expires = _time(claims, "exp")
        if expires is None:
            raise Unauthenticated("the token has no end")
        begins = [when for name in ("nbf", "iat") if (when := _time(claims, name)) is not None]
        return _Believed(
            key=key,
            principal=self._read(claims),
            begins=max(begins, default=-inf) - LEEWAY_SECS,
            ends=expires + LEEWAY_SECS,
        )

    def _check_time(self, believed: _Believed) -> None:
        now = self._clock().timestamp()
        if now >= believed.ends:
            raise Unauthenticated("the token has expired", reason="TokenExpired")
        if now < believed.begins:
            raise Unauthenticated("the token is not valid yet")


class ChainVerifier:
    """Asks the verifier of the issuer that the token names."""

    def __init__(self, by_issuer: Mapping[str, TokenVerifier]) -> None:
        self._by_issuer = dict(by_issuer)
        self._seen: OrderedDict[str, TokenVerifier] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """See ports.identity.TokenVerifier."""
        if (seen := self._seen.get(token)) is not None:
            return await seen.verify(token)
        issuer = _unverified_issuer(token)
        verifier = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if verifier is None:
            raise Unauthenticated("the token is of another issuer")
        principal = await verifier.verify(token)
        # Only who was believed once: forged tokens push out nobody's.
        _remember(self._seen, token, verifier)
        return principal


def _remember(seen: "OrderedDict[str, _T]", token: str, what: _T) -> None:
    seen[token] = what
    if len(seen) > REMEMBERED:
        seen.popitem(last=False)


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > MAX_TOKEN_CHARS:
        raise Unauthenticated("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated("the token is no JWT") from error
    if "crit" in header:
        raise Unauthenticated("the token asks for an extension")
    return header


def _unverified_issuer(token: str) -> object:
    _header(token)
    parts = token.split(".")
    try:
        claims = json.loads(jwt.utils.base64url_decode(parts[1]))
    except (ValueError, IndexError, RecursionError) as error:
        raise Unauthenticated("the token is no JWT") from error
    return claims.get("iss") if isinstance(claims, dict) else None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise Unauthenticated(f"the token's {name} is no time")
    return float(value)
