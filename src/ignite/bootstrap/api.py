"""The api: public services, AdminService and the HTTP edge."""

import time
from dataclasses import dataclass
from importlib.metadata import version

import grpc

from ignite.archives import inspect
from ignite.blobs.files import FileBlobStore
from ignite.bootstrap.development import DevelopmentAccess
from ignite.bootstrap.probes import probes, sandbox_probe, warm_pools
from ignite.bootstrap.run import Tiers, database_url, now
from ignite.bootstrap.verifiers import Verifiers, verifiers
from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import Database
from ignite.db.hints import BuildLineHints
from ignite.domain.addresses import PublicAddress
from ignite.domain.archives import ArchiveLimits, Listing
from ignite.edge.app import EdgeApp, EdgeParts, build_routes
from ignite.edge.server import EdgeServer
from ignite.gateway.dispatcher import EnvoyDispatcher
from ignite.identity.hashing import ScryptHasher
from ignite.identity.issuer import Issuer, issuer_url
from ignite.identity.keystore import KeyStore
from ignite.layout import Layout
from ignite.pki import Pki
from ignite.rpc.auth import BearerAuth, CertificateAuth
from ignite.rpc.calls import CallsUnderWay
from ignite.rpc.metrics import RpcMetrics
from ignite.rpc.policy import policies_of
from ignite.rpc.server import Bind, GrpcServer, ServerOptions, Service, grpc_component
from ignite.rpc.tls import mutual_tls, server_tls
from ignite.secretstores.client import VaultClient
from ignite.secretstores.vault import VaultPlatformSecrets, VaultSecretStore
from ignite.services.admin.accounts import ServiceAccounts
from ignite.services.admin.cluster import Cluster, ClusterFacts
from ignite.services.admin.logins import FailedLogins
from ignite.services.admin.organizations import Organizations
from ignite.services.admin.servicer import AdminServicer, AdminUseCases
from ignite.services.admin.tokens import ClientCredentials, OperatorTokens
from ignite.services.compute.apps import Apps
from ignite.services.compute.bounds import bounds_of
from ignite.services.compute.build_logs import BuildLogs
from ignite.services.compute.drafts import Drafts
from ignite.services.compute.invocations import Invocations
from ignite.services.compute.servicer import ComputeServicer, ComputeUseCases
from ignite.services.compute.sources import Sources
from ignite.services.compute.trials import Trials
from ignite.services.compute.versions import Versions
from ignite.services.secret.servicer import SecretServicer
from ignite.services.secret.slots import Slots
from ignite.settings import Settings
from ignite.telemetry.metrics import Registry
from ignite.v1 import (
    ignite_admin_pb2_grpc,
    ignite_build_pb2_grpc,
    ignite_compute_pb2_grpc,
    ignite_model_pb2_grpc,
    ignite_secret_pb2_grpc,
)

COMPUTE = "dodil.ignite.v1.ComputeService"
BUILD = "dodil.ignite.v1.BuildService"
MODEL = "dodil.ignite.v1.ModelService"
ADMIN = "dodil.ignite.v1.AdminService"
SECRET = "dodil.ignite.v1.SecretService"  # noqa: S105 - the service's name

# What any caller with the scope may use on apps of the organisation `public`.
OPEN_TO_PUBLIC = frozenset({f"/{COMPUTE}/Invoke", f"/{COMPUTE}/InvokeAsync"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What every part of the role stands on."""

    settings: Settings
    layout: Layout
    registry: Registry
    database: Database
    vault: VaultClient
    keys: KeyStore
    issuer: Issuer
    issuer_name: str
    trust: Verifiers
    platform: VaultPlatformSecrets
    store: PostgresAccountStore
    hasher: ScryptHasher
    organizations: Organizations
    accounts: ServiceAccounts
    calls: CallsUnderWay


# HTTP/2 counts 32 bytes more a field than were sent; Envoy lets 200 fields pass and adds some.
_HEADER_OVERHEAD = 16 * 1024


def components(settings: Settings, layout: Layout, registry: Registry) -> Tiers:
    """Return the tiers of the role."""
    base = _base(settings, layout, registry)
    hints = BuildLineHints(base.database)
    invocations = Invocations(
        EnvoyDispatcher(layout.internal_socket), settings.limits, settings.gateway
    )
    development = DevelopmentAccess(
        layout,
        base.organizations,
        base.accounts,
        base.issuer,
        settings.identity.dev_organization,
    )
    return [
        [base.keys, hints, *base.trust.components],
        [development],
        [
            _public_server(base, hints, invocations),
            _admin_server(base),
            _edge(base, invocations),
        ],
    ]


def _base(settings: Settings, layout: Layout, registry: Registry) -> _Base:
    database = Database(database_url(settings), settings.database)
    vault = VaultClient(settings.vault)
    platform = VaultPlatformSecrets(vault)
    keys = KeyStore(platform, settings.identity, now)
    store = PostgresAccountStore(database)
    hasher = ScryptHasher()
    name = issuer_url(settings.identity, settings.dns_tls, settings.server)
    return _Base(
        settings=settings,
        layout=layout,
        registry=registry,
        database=database,
        vault=vault,
        keys=keys,
        issuer=Issuer(keys, name, settings.identity, now),
        issuer_name=name,
        trust=verifiers(keys, name, settings.identity),
        platform=platform,
        store=store,
        hasher=hasher,
        organizations=Organizations(store, settings.limits),
        accounts=ServiceAccounts(store, hasher, settings.limits, now),
        calls=CallsUnderWay(settings.limits.calls_per_caller),
    )


def _public_server(base: _Base, hints: BuildLineHints, invocations: Invocations) -> GrpcServer:
    settings = base.settings
    services = [
        Service(
            name=COMPUTE,
            add=ignite_compute_pb2_grpc.add_ComputeServiceServicer_to_server,
            servicer=_compute(base, hints, invocations),
        ),
        Service(
            name=BUILD,
            add=ignite_build_pb2_grpc.add_BuildServiceServicer_to_server,
            servicer=ignite_build_pb2_grpc.BuildServiceServicer(),
        ),
        Service(
            name=MODEL,
            add=ignite_model_pb2_grpc.add_ModelServiceServicer_to_server,
            servicer=ignite_model_pb2_grpc.ModelServiceServicer(),
        ),
        Service(
            name=SECRET,
            add=ignite_secret_pb2_grpc.add_SecretServiceServicer_to_server,
            servicer=SecretServicer(Slots(VaultSecretStore(base.vault)), settings.limits),
        ),
    ]
    auth = BearerAuth(
        base.trust.verifier,
        policies_of([service.name for service in services]),
        OPEN_TO_PUBLIC,
        base.calls,
    )
    return grpc_component(
        name="api",
        binds=[
            Bind(address=settings.server.api_listen_addr, credentials=_credentials(settings)),
            Bind.unix(base.layout.api_socket),
        ],
        services=services,
        auth=auth,
        metrics=RpcMetrics(base.registry),
        options=ServerOptions(
            message_bytes=settings.limits.message_bytes,
            drain_grace_secs=settings.server.drain_grace_secs,
            # What Envoy lets pass must not fail here, where the refusal would show the insides.
            metadata_bytes=settings.gateway.max_request_headers_kb * 1024 + _HEADER_OVERHEAD,
            handshake_secs=settings.gateway.head_secs,
            idle_secs=settings.gateway.idle_secs,
        ),
    )


def _compute(base: _Base, hints: BuildLineHints, invocations: Invocations) -> ComputeServicer:
    settings, database = base.settings, base.database
    bounds = bounds_of(settings.limits, settings.scaling)
    limits = ArchiveLimits(
        archive_bytes=settings.limits.archive_bytes,
        unpacked_bytes=settings.limits.unpacked_bytes,
        entries=settings.limits.archive_entries,
        ratio=settings.limits.archive_ratio,
    )

    def inspected(content: bytes) -> Listing:
        return inspect(content, limits)

    sources = Sources(FileBlobStore(base.layout.blobs), bounds, inspected)
    build_logs = BuildLogs(database, hints, reply_bytes=settings.limits.build_log_reply_bytes)
    use_cases = ComputeUseCases(
        apps=Apps(
            database,
            sources,
            bounds,
            apps_per_organization=settings.limits.apps_per_organization,
        ),
        drafts=Drafts(database, sources, bounds),
        versions=Versions(database, sources),
        build_logs=build_logs,
        trials=Trials(database, build_logs, invocations, settings.limits, settings.gateway),
        invocations=invocations,
    )
    has_tls = settings.server.tls_cert_file is not None
    address = PublicAddress(
        scheme="https" if has_tls else "http",
        base_domain=settings.dns_tls.base_domain,
        port=settings.dns_tls.public_port,
    )
    return ComputeServicer(use_cases, settings.limits, address, server_version=version("ignite"))


def _admin_server(base: _Base) -> GrpcServer:
    settings = base.settings
    pki = Pki(base.layout.pki)
    cluster = Cluster(
        probes(base.layout, base.database, base.platform),
        ClusterFacts(version=version("ignite"), backend="process"),
        now,
        sandbox=sandbox_probe(base.layout),
    )
    use_cases = AdminUseCases(
        organizations=base.organizations,
        accounts=base.accounts,
        tokens=OperatorTokens(base.accounts, base.store, base.issuer),
        keys=base.keys,
        cluster=cluster,
        pools=warm_pools(base.layout),
    )
    return grpc_component(
        name="admin",
        binds=[
            Bind(
                address=settings.server.admin_listen_addr,
                credentials=mutual_tls(pki.server, pki.server_key, pki.ca),
            )
        ],
        services=[
            Service(
                name=ADMIN,
                add=ignite_admin_pb2_grpc.add_AdminServiceServicer_to_server,
                servicer=AdminServicer(use_cases, settings.limits),
            )
        ],
        auth=CertificateAuth(),
        options=ServerOptions(drain_grace_secs=settings.server.drain_grace_secs),
    )


def _edge(base: _Base, invocations: Invocations) -> EdgeServer:
    settings = base.settings
    failures = FailedLogins(
        settings.identity.failed_logins_per_minute,
        settings.identity.failed_logins_per_minute_total,
        time.monotonic,
    )
    parts = EdgeParts(
        issuer=base.issuer_name,
        identity=settings.identity,
        limits=settings.limits,
        keys=base.keys,
        grant=ClientCredentials(base.store, base.hasher, base.issuer, failures, now),
        verifier=base.trust.verifier,
        invoker=invocations,
        calls=base.calls,
    )
    return EdgeServer(
        EdgeApp(build_routes(parts)), base.layout.edge_socket, settings.server.drain_grace_secs
    )


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    server = settings.server
    if server.tls_cert_file is None or server.tls_key_file is None:
        return None
    return server_tls(server.tls_cert_file, server.tls_key_file)
