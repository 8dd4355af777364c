"""Signing keys and the ring that says which one signs when. Pure but for making a key.

A new key is published one cache period before it signs, so that every verifier knows it by then. A
key that signs no more stays published until the last token it can have signed has ended.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ignite.domain.errors import Internal

ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One P-256 key; `id` is the RFC 7638 thumbprint of its public half."""

    id: str
    private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    created_at: datetime
    signs_from: datetime

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """Return the half that verifies."""
        return self.private.public_key()

    def jwk(self) -> dict[str, str]:
        """Return the public half as a JWK."""
        return {**_thumbprint_members(self.public), "kid": self.id, "use": "sig", "alg": ALGORITHM}


def new_key(*, created_at: datetime, signs_from: datetime) -> SigningKey:
    """Make a key."""
    private = ec.generate_private_key(ec.SECP256R1())
    return SigningKey(
        id=thumbprint(private.public_key()),
        private=private,
        created_at=created_at,
        signs_from=signs_from,
    )


def thumbprint(public: ec.EllipticCurvePublicKey) -> str:
    """Return the RFC 7638 thumbprint."""
    members = json.dumps(_thumbprint_members(public), sort_keys=True, separators=(",", ":"))
    return _b64(hashlib.sha256(members.encode()).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """All keys that matter, the earliest to sign first. Never empty once loaded."""

    keys: tuple[SigningKey, ...]

    def signing(self, now: datetime) -> SigningKey:
        """Return the newest key whose time to sign has come."""
        due = [key for key in self.keys if key.signs_from <= now]
        # A clock that was set back must not stop the issuer.
        return due[-1] if due else self.keys[0]

    def pending(self, now: datetime) -> SigningKey | None:
        """Return a key that is published and does not sign yet."""
        return next((key for key in self.keys if key.signs_from > now), None)

    def retires_at(self, key: SigningKey) -> datetime | None:
        """Return when the next key takes over from `key`, None for the last."""
        place = self.keys.index(key)
        return self.keys[place + 1].signs_from if place + 1 < len(self.keys) else None

    def published(self, now: datetime, keep: timedelta) -> tuple[SigningKey, ...]:
        """Return the keys that verify: all but those retired longer than `keep` ago."""
        found = []
        for key in self.keys:
            retired = self.retires_at(key)
            if retired is None or now < retired + keep:
                found.append(key)
        return tuple(found)

    def rotated(self, key: SigningKey, now: datetime, keep: timedelta) -> "KeyRing":
        """Return the ring with `key` added and without those that verify nothing any more."""
        ring = KeyRing(keys=(*self.keys, key))
        return KeyRing(keys=ring.published(now, keep))

    def document(self) -> dict[str, str]:
        """Return the ring as a document of the platform's secrets. Holds private keys."""
        rows = [
            {
                "pem": _pem(key.private),
                "created_at": key.created_at.timestamp(),
                "signs_from": key.signs_from.timestamp(),
            }
            for key in self.keys
        ]
        return {"ring": json.dumps(rows)}


def ring_of(document: Mapping[str, str]) -> KeyRing:
    """Read what `KeyRing.document` wrote; raises Internal."""
    try:
        keys = tuple(_key_of(row) for row in json.loads(document["ring"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Internal("the stored signing keys cannot be read") from error
    if not keys:
        raise Internal("the stored signing keys are empty")
    return KeyRing(keys=tuple(sorted(keys, key=lambda key: key.signs_from)))


def _key_of(row: Mapping[str, Any]) -> SigningKey:
    private = serialization.load_pem_private_key(row["pem"].encode(), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return SigningKey(
        id=thumbprint(private.public_key()),
        private=private,
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        signs_from=datetime.fromtimestamp(row["signs_from"], UTC),
    )


def _pem(private: ec.EllipticCurvePrivateKey) -> str:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _thumbprint_members(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": _b64(numbers.x.to_bytes(32, "big")),
        "y": _b64(numbers.y.to_bytes(32, "big")),
    }


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
