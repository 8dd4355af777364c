"""The ports of identity: believing tokens, and making them."""

from typing import Protocol

from ignite.domain.identity import Principal


class TokenVerifier(Protocol):
    """Decides whether a bearer token is to be believed."""

    async def verify(self, token: str) -> Principal:
        """Return who it names; raises Unauthenticated with a text that says why in general."""
