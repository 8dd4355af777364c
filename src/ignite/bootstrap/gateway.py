"""The gateway: route table, ADS, activator, demand. It verifies tokens without api or store."""

import time
from importlib import resources

from ignite.bootstrap.run import Tiers
from ignite.bootstrap.verifiers import verifiers
from ignite.gateway.main import Inputs
from ignite.gateway.main import components as gateway_components
from ignite.identity.fetch import fetch_unix
from ignite.identity.issuer import issuer_url
from ignite.identity.jwks import JwksCache
from ignite.layout import Layout
from ignite.settings import Settings
from ignite.telemetry.cold_starts import ColdWaits
from ignite.telemetry.metrics import Registry

_MIN_INTERVAL_SECS = 1.0


def components(settings: Settings, layout: Layout, registry: Registry) -> Tiers:
    """Return the tiers of the role."""
    identity = settings.identity
    issuer = issuer_url(identity, settings.dns_tls, settings.server)
    keys = JwksCache(
        fetch_unix(layout.edge_socket, f"/realms/{identity.realm}/protocol/openid-connect/certs"),
        refresh_secs=identity.key_publish_secs / 2,
        min_interval_secs=_MIN_INTERVAL_SECS,
        monotonic=time.monotonic,
        kept=layout.gateway / "jwks.json",
    )
    trust = verifiers(keys, issuer, identity)
    inputs = Inputs(
        settings=settings,
        layout=layout,
        verifier=trust.verifier,
        issuer=issuer,
        key_sets=(keys, *trust.external_keys),
        descriptors=resources.files("ignite.v1").joinpath("descriptors.binpb").read_bytes(),
        on_cold_wait=ColdWaits(registry).waited,
    )
    return [[keys, *trust.components], *gateway_components(inputs)]
