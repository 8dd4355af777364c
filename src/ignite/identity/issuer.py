"""Makes the built-in tokens: one organisation, a list of scopes, a quarter of an hour at most."""

from collections.abc import Callable, Set
from datetime import datetime, timedelta
from typing import Protocol

import jwt
from ulid import ULID

from ignite.domain.identity import Organization, Scope
from ignite.identity.keys import ALGORITHM, SigningKey
from ignite.ports.identity import AccessToken
from ignite.settings import DnsTlsSettings, IdentitySettings, ServerSettings

DEFAULT_PORT = 8080
DEFAULT_TLS_PORT = 8443


class SigningKeySource(Protocol):
    """Gives the key that signs now."""

    def signing(self) -> SigningKey:
        """Return it; raises Unavailable before the keys are loaded."""


class Issuer:
    """Signs tokens with the key of the moment."""

    def __init__(
        self,
        keys: SigningKeySource,
        issuer: str,
        settings: IdentitySettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = settings.audience
        self._ttl_secs = settings.token_ttl_secs
        self._clock = clock

    def issue(
        self,
        subject: str,
        organization: Organization,
        scopes: Set[Scope],
        *,
        ttl_secs: int | None = None,
    ) -> AccessToken:
        """See ports.identity.TokenIssuer."""
        key = self._keys.signing()
        now = self._clock().replace(microsecond=0)
        life = min(ttl_secs or self._ttl_secs, self._ttl_secs)
        expires = now + timedelta(seconds=life)
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "jti": str(ULID()),
            "organization": {organization.name: {"id": organization.id}},
            # One string, as RFC 9068 has it: Envoy copies claims at every request, and a list of
            # as many words costs it a tenth of the request.
            "scope": " ".join(sorted(scope.value for scope in scopes)),
        }
        token = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.id})
        return AccessToken(token=token, issued_at=now, expires_at=expires)


def issuer_url(identity: IdentitySettings, dns: DnsTlsSettings, server: ServerSettings) -> str:
    """Return the issuer that our tokens name.

    It is where discovery answers, as long as the HTTP port is a fixed one. Where the system picks
    the port (0), the name has no port: a name that changed with every start would make verifiers
    that share settings disagree.
    """
    if identity.issuer:
        return identity.issuer
    tls = server.tls_cert_file is not None
    _, _, given = server.http_listen_addr.rpartition(":")
    default = DEFAULT_TLS_PORT if tls else DEFAULT_PORT
    port = dns.public_port or (int(given) if given.isdigit() else default)
    scheme, usual = ("https", 443) if tls else ("http", 80)
    host = dns.base_domain if port in (0, usual) else f"{dns.base_domain}:{port}"
    return f"{scheme}://{host}/realms/{identity.realm}"
