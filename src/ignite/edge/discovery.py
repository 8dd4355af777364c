"""The public face of the built-in issuer: its keys and its OIDC discovery document."""

from ignite.edge.http import Request, json_answer
from ignite.ports.identity import SigningKeys


class KeysEndpoint:
    """GET /realms/{realm}/protocol/openid-connect/certs.

    May be cached for a third of the time a new key is published before it signs, so that two
    caches in a row still learn of it in time.
    """

    def __init__(self, keys: SigningKeys, key_publish_secs: int) -> None:
        self._keys = keys
        self._cache = f"public, max-age={max(1, key_publish_secs // 3)}".encode()

    async def __call__(self, request: Request) -> None:
        """Serve one request."""
        answer = json_answer(self._keys.jwks(), headers=((b"cache-control", self._cache),))
        await answer.send(request.send)


class DiscoveryEndpoint:
    """GET /realms/{realm}/.well-known/openid-configuration."""

    def __init__(self, issuer: str) -> None:
        self._document = {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/protocol/openid-connect/token",
            "jwks_uri": f"{issuer}/protocol/openid-connect/certs",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": [
                "client_secret_post",
                "client_secret_basic",
            ],
            "id_token_signing_alg_values_supported": ["ES256"],
            "subject_types_supported": ["public"],
            "response_types_supported": [],
        }

    async def __call__(self, request: Request) -> None:
        """Serve one request."""
        await json_answer(self._document).send(request.send)
