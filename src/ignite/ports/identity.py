"""The ports of identity: believing tokens, and making them."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ignite.domain.identity import Organization, Principal, Scope


class TokenVerifier(Protocol):
    """Decides whether a bearer token is to be believed."""

    async def verify(self, token: str) -> Principal:
        """Return who it names; raises Unauthenticated with a text that says why in general."""


class PublishedKeys(Protocol):
    """The keys that verify an issuer's tokens, as a set that changes."""

    @property
    def digest(self) -> str:
        """Return a word that every other set of keys has another one for."""

    def on_change(self, call: Callable[[], None]) -> None:
        """Have `call` called after each change of the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A signed token and when it ends."""

    token: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime

    @property
    def expires_in_secs(self) -> int:
        """Return its life as OAuth names it."""
        return int((self.expires_at - self.issued_at).total_seconds())


class TokenIssuer(Protocol):
    """Makes tokens of the built-in identity."""

    def issue(
        self,
        subject: str,
        organization: Organization,
        scopes: Set[Scope],
        *,
        ttl_secs: int | None = None,
    ) -> AccessToken:
        """Sign a token; a longer life than the settings allow is cut to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRotation:
    """What a rotation did: from when the new key signs, until when the old one verifies."""

    key_id: str
    signs_from: datetime
    previous_key_id: str
    previous_verifies_until: datetime | None


class SigningKeys(Protocol):
    """The keys that sign our tokens."""

    async def rotate(self) -> KeyRotation:
        """Publish a new key that will sign one cache period later.

        Raises FailedPrecondition while an earlier rotation is under way, Unavailable when the
        store of the keys is out of reach.
        """

    def jwks(self) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """Return every public key that a valid token may be signed with, as a JWK set."""


class SecretHasher(Protocol):
    """Keeps secrets of service accounts as something they cannot be read from."""

    async def hash(self, secret: str) -> str:
        """Return a salted hash."""

    async def verify(self, secret: str, hashed: str) -> bool:
        """Tell whether `hashed` was made of `secret`."""

    def remembers(self, secret: str, hashed: str) -> bool:
        """Tell at no cost whether the pair was right before; False says nothing."""
