"""Names that Envoy's configuration and our own servers have to agree on."""

import re

from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationName
from ignite.gateway.table import TAG_LENGTH, Target

PUBLIC = "public"
"""The listener of everyone, and its route configuration."""

INTERNAL = "internal"
"""The listener of our own roles, and its route configuration."""

ACTIVATOR = "ignite_activator"
API = "ignite_api"
EDGE = "ignite_edge"
XDS = "ignite_xds"
EXTERNAL_ISSUER = "ignite_external_issuer"
"""Static clusters. App clusters are named by route keys, which hold a slash."""

UNBOUNDED = 4_294_967_295
"""What Envoy's circuit breakers take for no bound. Here, because the supervisor and the api start
and ask Envoy without the many types of its configuration."""

_VERSION = re.compile(rf"v(?P<number>[0-9]+)(-(?P<tag>[0-9a-f]{{{TAG_LENGTH}}}))?")

HEADER_PREFIX = "x-ignite-"
EXECUTION_ID = "x-ignite-execution-id"
FUNCTION_ID = "x-ignite-function-id"
ORGANIZATION_ID = "x-ignite-organization-id"
FUNCTION_VERSION = "x-ignite-function-version"

VIA = "x-ignite-via"
"""Set by Envoy on the way to the activator: which listener took the request. Clients cannot send
it: the public listener removes every header of the prefix before it does anything else. Without
it a request comes from a warm app's route, which let it in and said whose it is."""

OVERFLOW_ZONE = "activator"
"""Locality of the activator among an app's endpoints."""

OVERFLOW = "x-ignite-overflow"
"""A full replica's 503 carries it: the handler was not called, another replica may be tried."""

ERROR = "x-ignite-error"
"""The reason word of an answer that the gateway made itself; removed from what replicas answer."""

COLD_START = "x-ignite-cold-start"
WAIT_MS = "x-ignite-cold-start-wait-ms"

GATEWAY_ONLY = (ERROR, OVERFLOW, COLD_START, WAIT_MS, FUNCTION_ID, ORGANIZATION_ID)
"""Response headers that no replica can send on."""


def target_host(target: Target) -> str:
    """Return the authority that selects `target` on the internal listener."""
    version = "active" if target.version is None else f"v{target.version}"
    if target.tag:
        version += f"-{target.tag}"
    return f"{version}.{target.app.organization}.{target.app.name}"


def target_of_host(host: str) -> Target | None:
    """Return what `host` selects on the internal listener; None where it is no such name.

    Organisations hold no dot, names of apps may.
    """
    version, _, rest = host.lower().partition(".")
    organization, _, name = rest.partition(".")
    if not (organization and name):
        return None
    app = AppRef(organization=OrganizationName(organization), name=name)
    if version == "active":
        return Target(app=app)
    found = _VERSION.fullmatch(version)
    return found and Target(app=app, version=int(found["number"]), tag=found["tag"] or "")
