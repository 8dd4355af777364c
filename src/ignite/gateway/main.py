"""The gateway role put together: what runs, and in which order it starts."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

from ignite.gateway import table
from ignite.gateway.activator import Activator
from ignite.gateway.admission import Admission
from ignite.gateway.demand import DemandBook
from ignite.gateway.discovery import DiscoveryServer
from ignite.gateway.envoy import EnvoyProcess, envoy_process
from ignite.gateway.holding import Holding, HoldingLimits
from ignite.gateway.json_paths import transcoded_services
from ignite.gateway.lingering import Publisher
from ignite.gateway.mark import error_mark
from ignite.gateway.shape import Issuer, Shape
from ignite.gateway.tls import write_secret
from ignite.gateway.trust import KeyWatch, generation_of
from ignite.gateway.watcher import ControllersClient, DemandReporter, RouteWatcher
from ignite.gateway.xds import Compiler
from ignite.layout import Layout
from ignite.lifecycle import Component
from ignite.ports.identity import PublishedKeys, TokenVerifier
from ignite.settings import Settings

SETTLE_SECS = 0.05
"""Envoy acknowledges when its main thread has a change; its workers take it a moment later."""

GATEWAY_ID = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the role gets from outside. `descriptors` is the public API's FileDescriptorSet.

    `key_sets` are the keys of all issuers; without them Envoy remembers no token.
    """

    settings: Settings
    layout: Layout
    verifier: TokenVerifier
    issuer: str
    descriptors: bytes
    key_sets: tuple[PublishedKeys, ...] = ()
    on_cold_wait: Callable[[float], None] = lambda _secs: None


def components(inputs: Inputs) -> tuple[tuple[Component, ...], ...]:
    """Return the tiers of the gateway role."""
    _allow_files()
    settings, layout = inputs.settings, inputs.layout
    known = table.load(layout.gateway)
    shape = shape_of(inputs)
    write_secret(shape)
    compiler = Compiler(shape, keys=generation_of(inputs.key_sets))
    book = DemandBook()
    discovery = DiscoveryServer(
        socket=layout.xds_socket,
        first=compiler.snapshot(known),
        load_report_secs=settings.gateway.load_report_secs,
        on_load=book.report,
    )
    client = ControllersClient(layout.controllers_socket, GATEWAY_ID)
    holding = Holding(
        table=known,
        waker=client,
        limits=HoldingLimits(
            per_app=settings.gateway.max_held_per_app,
            overall=settings.gateway.max_held,
            budget_secs=settings.gateway.cold_start_budget_secs,
            default_max_concurrency=settings.runtime.max_concurrency,
        ),
    )
    activator = Activator(
        socket=layout.activator_socket,
        holding=holding,
        admission=Admission(inputs.verifier, check_ids=not settings.identity.external_issuer),
        demand=book,
        error_mark=shape.error_mark,
        base_domain=settings.dns_tls.base_domain,
        drain_secs=settings.server.drain_grace_secs,
        on_cold_wait=inputs.on_cold_wait,
    )
    publisher = Publisher(compiler, discovery, holding)
    watcher = RouteWatcher(
        client,
        table=known,
        publish=publisher.publish,
        save=lambda fresh: table.save(fresh, layout.gateway),
        applied=discovery.applied,
        settle_secs=SETTLE_SECS,
    )
    reporter = DemandReporter(client, book, lambda: holding.table)
    keys = KeyWatch(inputs.key_sets, publisher.trust, settle_secs=2 * shape.jwks_cache_secs)
    return ((activator,), (discovery,), (watcher, reporter, keys))


def _allow_files() -> None:
    """Take as many files as the system gives: a held request is a connection, a relayed one two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def envoy_child(settings: Settings, layout: Layout) -> EnvoyProcess:
    """Return how the supervisor starts Envoy for this installation."""
    return envoy_process(
        layout,
        config_path=layout.gateway / "envoy.json",
        concurrency=settings.gateway.concurrency,
        max_connections=settings.gateway.max_connections,
        heap_bytes=settings.gateway.heap_bytes,
        external_jwks_url=settings.identity.external_jwks_url,
    )


def shape_of(inputs: Inputs) -> Shape:
    """Return what Envoy's configuration depends on."""
    settings = inputs.settings
    host, port = listen_address(settings)
    return Shape(
        listen_host=host,
        listen_port=port,
        tls_cert_file=settings.server.tls_cert_file,
        tls_key_file=settings.server.tls_key_file,
        base_domain=settings.dns_tls.base_domain,
        api_hosts=settings.gateway.api_hosts,
        issuers=issuers_of(inputs),
        # Envoy does no discovery: it needs the address of the keys.
        checks_tokens=not settings.identity.external_issuer
        or bool(settings.identity.external_jwks_url),
        jwks_cache_secs=max(settings.identity.key_publish_secs / 2, 1.0),
        max_request_headers_kb=settings.gateway.max_request_headers_kb,
        head_secs=settings.gateway.head_secs,
        idle_secs=settings.gateway.idle_secs,
        max_json_body_bytes=settings.gateway.max_json_body_bytes,
        default_max_concurrency=settings.runtime.max_concurrency,
        internal_socket=inputs.layout.internal_socket,
        activator_socket=inputs.layout.activator_socket,
        descriptors=inputs.descriptors,
        services=transcoded_services(inputs.descriptors),
        error_mark=error_mark(inputs.layout.gateway),
        tls_secret_file=inputs.layout.gateway / "tls-secret.json",
    )


def issuers_of(inputs: Inputs) -> tuple[Issuer, ...]:
    """Return the issuers that Envoy believes: ours, and the external one where it is set."""
    identity = inputs.settings.identity
    ours = Issuer(
        issuer=inputs.issuer,
        audience=identity.audience,
        jwks_uri=f"http://edge/realms/{identity.realm}/protocol/openid-connect/certs",
    )
    if not (identity.external_issuer and identity.external_jwks_url):
        return (ours,)
    theirs = Issuer(
        issuer=identity.external_issuer,
        audience=identity.external_audience,
        jwks_uri=identity.external_jwks_url,
        is_builtin=False,
        roles_claim=identity.external_roles_claim,
    )
    return (ours, theirs)


def listen_address(settings: Settings) -> tuple[str, int]:
    """Return host and port of the public listener, with the defaults of the contract."""
    default = "0.0.0.0:8443" if settings.server.tls_cert_file else "127.0.0.1:8080"
    host, _, port = (settings.server.http_listen_addr or default).rpartition(":")
    return host, int(port)
