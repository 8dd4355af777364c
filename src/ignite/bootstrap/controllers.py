"""The controllers: deployments, autoscaler, builds, janitor, and the wire to gateways."""

from datetime import timedelta

import grpc.aio

from ignite.backends.process import ProcessDriver
from ignite.backends.replicas import ReplicaBackend
from ignite.blobs.files import FileBlobStore
from ignite.blobs.shelf import BlobShelf
from ignite.bootstrap.run import Tiers, database_url, now
from ignite.builders.local import BUILD_SLACK_SECS, LocalBuilder
from ignite.builders.shelves import ArtifactShelf, WorkFolderShelf
from ignite.controllers.autoscaler import Autoscaler
from ignite.controllers.builds import Builds
from ignite.controllers.deployments import Deployments, DeploymentSettings
from ignite.controllers.janitor import Janitor, JanitorMetrics, JanitorRules
from ignite.controllers.route_service import RouteServicer
from ignite.controllers.routes import RouteBoard
from ignite.db.database import Database
from ignite.db.references import References
from ignite.domain.scaling import PlatformScaling
from ignite.internal.v1 import routes_pb2_grpc
from ignite.layout import Layout
from ignite.rpc.metrics import RpcMetrics
from ignite.rpc.server import Bind, ServerOptions, Service, grpc_component
from ignite.settings import Settings
from ignite.telemetry.metrics import Registry

# A spawner that was restarted is back within a second; gRPC's own pause starts with one and grows.
_PAUSES = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)

_MARGIN_SECS = 120.0


def components(settings: Settings, layout: Layout, registry: Registry) -> Tiers:
    """Return the tiers of the role."""
    database = Database(database_url(settings), settings.database)
    spawner = grpc.aio.insecure_channel(f"unix:{layout.spawner_socket}", options=_PAUSES)
    board = RouteBoard()
    backend = ReplicaBackend(
        ProcessDriver(spawner, layout, settings.runtime),
        board,
        now=now,
        stop_grace_secs=settings.runtime.stop_grace_secs,
    )
    autoscaler = Autoscaler(now=now, interval_secs=settings.scaling.interval_secs)
    deployments = Deployments(
        database, backend, board, autoscaler, _deployment_settings(settings), now=now
    )
    builder = LocalBuilder(
        spawner, FileBlobStore(layout.blobs), layout, settings.build, settings.limits
    )
    builds = Builds(
        database,
        builder,
        concurrency=settings.build.concurrency,
        log_bytes=settings.build.log_bytes,
    )
    janitor = Janitor(
        [BlobShelf(layout.blobs), ArtifactShelf(layout), WorkFolderShelf(layout)],
        References(database),
        _janitor_rules(settings),
        JanitorMetrics(registry),
        now=now,
    )
    wire = grpc_component(
        name="controllers",
        binds=[Bind.unix(layout.controllers_socket)],
        services=[
            Service(
                name="dodil.ignite.internal.v1.RouteService",
                add=routes_pb2_grpc.add_RouteServiceServicer_to_server,
                servicer=RouteServicer(board, deployments, autoscaler),
            )
        ],
        auth=None,
        metrics=RpcMetrics(registry),
        # Watches never end by themselves, and nothing else takes long here.
        options=ServerOptions(drain_grace_secs=0.5),
    )
    return [[backend], [autoscaler, deployments], [builds, janitor, wire]]


def _deployment_settings(settings: Settings) -> DeploymentSettings:
    scaling = settings.scaling
    return DeploymentSettings(
        base_domain=settings.dns_tls.base_domain,
        default_concurrency=settings.runtime.max_concurrency,
        platform=PlatformScaling(
            replica_cap=scaling.replica_cap,
            threshold=scaling.scale_threshold,
            scaledown_period=timedelta(seconds=scaling.scaledown_period_secs),
            scaledown_floor=timedelta(seconds=scaling.scaledown_floor_secs),
        ),
        trial_idle=timedelta(seconds=scaling.test_idle_secs),
    )


def _janitor_rules(settings: Settings) -> JanitorRules:
    """Return rules whose grace outlasts whoever could still need a thing no row refers to."""
    longest_call = (
        settings.gateway.cold_start_budget_secs
        + settings.limits.timeout_secs
        + settings.runtime.stop_grace_secs
    )
    needed_for = (
        longest_call,
        settings.build.timeout_secs + BUILD_SLACK_SECS,
        # One to take a connection, one for what is done with it.
        2 * settings.database.statement_timeout_secs,
    )
    grace_secs = max(settings.janitor.grace_secs, *(_MARGIN_SECS + secs for secs in needed_for))
    return JanitorRules(
        interval=timedelta(seconds=settings.janitor.interval_secs),
        grace=timedelta(seconds=grace_secs),
        build_log_age=timedelta(days=settings.janitor.build_log_days),
    )
