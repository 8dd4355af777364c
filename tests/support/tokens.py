"""Keys of a test's own and tokens signed with them."""

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)

ISSUER = "http://localhost/realms/dodil"


class Keys:
    """A signing key with a JWK set and a verifier. Implements ports.identity.PublishedKeys."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._watchers: list[Callable[[], None]] = []

    @property
    def digest(self) -> str:
        return json.dumps(self.jwks())

    def on_change(self, call: Callable[[], None]) -> None:
        self._watchers.append(call)

    def replace(self, kid: str) -> None:
        """Withdraw the key and publish another one."""
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())
        for call in self._watchers:
            call()

    def jwks(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "ES256"}]}

    def token(self, organization: str = "acme", /, **claims: object) -> str:
        """Return a good token of `organization`, unless `claims` say otherwise."""
        now = int(time.time())
        body: dict[str, object] = {
            "iss": ISSUER,
            "aud": "ignite",
            "sub": "tester",
            "iat": now,
            "exp": now + 600,
            "organization": {organization: {"id": f"org-{organization}"}},
            "scope": "InvokeApp",
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, self._key, algorithm="ES256", headers={"kid": self.kid})

    def read(self, token: str, *, audience: str, issuer: str) -> dict[str, Any]:
        """Return the claims of a good token."""
        key = self._key.public_key()
        try:
            return dict(
                jwt.decode(token, key, algorithms=["ES256"], audience=audience, issuer=issuer)
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated("the token is not good") from error

    async def verify(self, token: str) -> Principal:
        """Implements ports.identity.TokenVerifier."""
        claims = self.read(token, audience="ignite", issuer=ISSUER)
        organizations = claims["organization"]
        if len(organizations) != 1:
            raise Unauthenticated("the token names more than one organization")
        ((name, about),) = organizations.items()
        known = {scope.value for scope in Scope}
        return Principal(
            subject=claims["sub"],
            organization=Organization(id=OrganizationId(about["id"]), name=OrganizationName(name)),
            scopes=frozenset(Scope(s) for s in claims["scope"].split() if s in known),
        )
