"""Keys that verify, of an issuer in another process: fetched as a JWK set, cached, kept on disk.

A set is refreshed in the background, so a slow or absent issuer never delays a request. Only a key
id that nobody has seen makes a request wait for a fetch, and at most once an interval, so that
forged ids cannot be turned into load on the issuer.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ignite.domain.errors import Unavailable

logger = logging.getLogger(__name__)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
Fetch = Callable[[], Awaitable[bytes]]

MAX_KEYS = 64
MIN_RSA_BITS = 2048
RETRY_SECS = 2.0

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the algorithms it may be used with. Never a shared secret."""

    id: str
    algorithms: tuple[str, ...]
    key: PublicKey = field(repr=False)


class KeySource(Protocol):
    """Finds the key that a token names."""

    async def find(self, key_id: str) -> VerificationKey | None:
        """Return it, None when the issuer has no such key; raises Unavailable when unknowable."""


class JwksCache:
    """The keys of another issuer. A lifecycle component.

    `fetch` returns the JSON of a JWK set or raises Unavailable. With `kept`, the last good set
    survives restarts while the issuer is away.
    """

    name = "jwks"

    def __init__(
        self,
        fetch: Fetch,
        *,
        refresh_secs: float,
        min_interval_secs: float,
        monotonic: Callable[[], float],
        kept: Path | None = None,
    ) -> None:
        self._fetch = fetch
        self._refresh_secs = refresh_secs
        self._min_interval_secs = min_interval_secs
        self._monotonic = monotonic
        self._kept = kept
        self._keys: Mapping[str, VerificationKey] = {}
        self._watchers: list[Callable[[], None]] = []
        self._tried_at: float | None = None
        self._reached = False
        self._lock = asyncio.Lock()
        if kept is not None:
            self._keys = _read(kept)
        self._digest = _digest(self._keys)

    @property
    def digest(self) -> str:
        """See ports.identity.PublishedKeys."""
        return self._digest

    def on_change(self, call: Callable[[], None]) -> None:
        """See ports.identity.PublishedKeys."""
        self._watchers.append(call)

    async def run(self, ready: Callable[[], None]) -> None:
        """Refresh for ever. Ready at once: without keys, tokens are refused as unavailable."""
        ready()
        while True:
            reached = await self.refresh()
            await asyncio.sleep(self._refresh_secs if reached else RETRY_SECS)

    async def refresh(self) -> bool:
        """Fetch the set now; False when that failed and the old one stays."""
        async with self._lock:
            return await self._refresh()

    async def find(self, key_id: str) -> VerificationKey | None:
        """See KeySource."""
        if found := self._keys.get(key_id):
            return found
        async with self._lock:
            if key_id not in self._keys and self._may_try():
                await self._refresh()
        if found := self._keys.get(key_id):
            return found
        if not self._reached:
            raise Unavailable("the keys of the token's issuer are out of reach")
        return None

    def _may_try(self) -> bool:
        return (
            self._tried_at is None or self._monotonic() - self._tried_at >= self._min_interval_secs
        )

    async def _refresh(self) -> bool:
        self._tried_at = self._monotonic()
        try:
            content = await self._fetch()
            keys = keys_of(content)
        except (Unavailable, ValueError) as error:
            self._reached = False
            logger.warning("keys not refreshed", extra={"error": str(error)})
            return False
        self._reached = True
        self._keys = keys
        if (digest := _digest(keys)) != self._digest:
            self._digest = digest
            for call in self._watchers:
                call()
            if self._kept is not None:
                await self._keep(self._kept, content)
        return True

    async def _keep(self, path: Path, content: bytes) -> None:
        try:
            await asyncio.to_thread(_write, path, content)
        except OSError as error:
            # A full disk must not stop us from believing tokens.
            logger.warning("keys not kept on disk", extra={"error": str(error)})


def keys_of(content: bytes) -> Mapping[str, VerificationKey]:
    """Return id → key of a JWK set; skips what cannot verify; raises ValueError."""
    parsed = json.loads(content)
    rows = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(rows, list):
        raise ValueError("not a JWK set")
    found = [key for row in rows[:MAX_KEYS] if (key := _key_of(row)) is not None]
    if not found:
        raise ValueError("a JWK set without a usable key")
    return {key.id: key for key in found}


def _key_of(row: Any) -> VerificationKey | None:
    if not isinstance(row, dict) or not isinstance(row.get("kid"), str) or not row["kid"]:
        return None
    if row.get("use", "sig") != "sig" or row.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    public = {name: value for name, value in row.items() if name != "d"}
    try:
        key = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = tuple(_algorithms(key))
    named = row.get("alg")
    if named is not None:
        algorithms = tuple(one for one in algorithms if one == named)
    return VerificationKey(id=row["kid"], algorithms=algorithms, key=key) if algorithms else None


def _algorithms(key: object) -> Sequence[str]:
    match key:
        case rsa.RSAPublicKey():
            return _RSA if key.key_size >= MIN_RSA_BITS else ()
        case ec.EllipticCurvePublicKey():
            name = _CURVES.get(key.curve.name)
            return (name,) if name else ()
        case ed25519.Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            return ()


def _digest(keys: Mapping[str, VerificationKey]) -> str:
    """Return a digest of ids, algorithms and the keys themselves: an id may get another key."""
    rows = sorted(
        (
            key.id,
            key.algorithms,
            key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex(),
        )
        for key in keys.values()
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _read(path: Path) -> Mapping[str, VerificationKey]:
    try:
        return keys_of(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    fresh.replace(path)
