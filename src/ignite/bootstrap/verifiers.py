"""Who believes which tokens: the composition that api and gateway share."""

import time
from dataclasses import dataclass

from ignite.bootstrap.run import now
from ignite.identity.claims import built_in_principal, principal_by_roles
from ignite.identity.fetch import fetch_by_discovery, fetch_url
from ignite.identity.jwks import JwksCache, KeySource
from ignite.identity.verifier import ChainVerifier, JwtVerifier
from ignite.lifecycle import Component
from ignite.ports.identity import PublishedKeys, TokenVerifier
from ignite.settings import IdentitySettings

_EXTERNAL_REFRESH_SECS = 300.0
_MIN_INTERVAL_SECS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifiers:
    """The verifier of all issuers, what has to run for it, and the other issuer's keys."""

    verifier: TokenVerifier
    components: tuple[Component, ...]
    external_keys: tuple[PublishedKeys, ...] = ()


def verifiers(keys: KeySource, issuer: str, settings: IdentitySettings) -> Verifiers:
    """Return the chain of our issuer, whose keys are `keys`, and the external one if there is."""
    by_issuer: dict[str, TokenVerifier] = {
        issuer: JwtVerifier(
            keys, issuer=issuer, audience=settings.audience, read=built_in_principal, clock=now
        )
    }
    if not settings.external_issuer:
        return Verifiers(verifier=ChainVerifier(by_issuer), components=())
    fetch = (
        fetch_url(settings.external_jwks_url)
        if settings.external_jwks_url
        else fetch_by_discovery(settings.external_issuer)
    )
    cache = JwksCache(
        fetch,
        refresh_secs=_EXTERNAL_REFRESH_SECS,
        min_interval_secs=_MIN_INTERVAL_SECS,
        monotonic=time.monotonic,
    )
    by_issuer[settings.external_issuer] = JwtVerifier(
        cache,
        issuer=settings.external_issuer,
        audience=settings.external_audience,
        read=principal_by_roles(settings.external_roles_claim),
        clock=now,
    )
    return Verifiers(verifier=ChainVerifier(by_issuer), components=(cache,), external_keys=(cache,))
