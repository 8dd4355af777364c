"""Puts the spawner together: `python -m ignite spawner`."""

import os
import resource
from collections.abc import Sequence

from ignite.internal.v1 import replicas_pb2_grpc
from ignite.layout import Layout
from ignite.lifecycle import Component
from ignite.rpc.server import Bind, GrpcServer, ServerOptions, Service, grpc_component
from ignite.sandbox.launcher import Launcher
from ignite.sandbox.uids import BUILD_UIDS, REPLICA_UIDS, UidPool
from ignite.settings import Settings
from ignite.spawner.build_folders import BuildFolders
from ignite.spawner.builds import Builds
from ignite.spawner.forks import ForkServers
from ignite.spawner.host import Host, Owner, prepare_host
from ignite.spawner.networks import Networks
from ignite.spawner.pools import WarmPools
from ignite.spawner.replicas import Replicas
from ignite.spawner.servicer import SERVICE_NAME, ReplicaServicer
from ignite.spawner.starts import Starts
from ignite.telemetry.cold_starts import ColdStarts
from ignite.telemetry.metrics import Registry, new_registry


def components(
    settings: Settings, layout: Layout, registry: Registry | None = None
) -> Sequence[Sequence[Component]]:
    """Return the tiers of the spawner role. Looks at the machine, so it blocks for a second."""
    _raise_open_files()
    networks = Networks(settings.runtime, settings.build, layout.run)
    host = prepare_host(settings, layout, networks.open(), gateway=networks.gateway)
    # Held by both components below and so for as long as any sandbox may live.
    launcher = Launcher(host.tools, has_seccomp=host.report.has_seccomp)
    first = settings.runtime.first_uid
    is_root = host.tools.is_root
    forks = ForkServers(settings=settings.runtime, host=host, launcher=launcher)
    starts = Starts(
        settings=settings.runtime,
        host=host,
        launcher=launcher,
        uids=UidPool(first=first, size=REPLICA_UIDS),
        forks=forks,
        networks=networks,
    )
    pools = WarmPools(
        settings=settings.runtime, host=host, starts=starts, forks=forks, folder=layout.replicas
    )
    replicas = Replicas(
        settings=settings.runtime,
        layout=layout,
        host=host,
        starts=starts,
        forks=forks,
        pools=pools,
        cold_starts=ColdStarts(registry or new_registry(process=False)),
    )
    builds = Builds(
        settings=settings.build,
        runtime=settings.runtime,
        layout=layout,
        host=host,
        launcher=launcher,
        folders=BuildFolders(
            layout, UidPool(first=first + REPLICA_UIDS, size=BUILD_UIDS), is_root=is_root
        ),
        networks=networks,
    )
    # Builds wait for the sweep of replicas, which ends the builds of an earlier spawner as well.
    server = _server(settings, layout, host, replicas, builds, pools)
    return ((networks,), (replicas,), (builds,), (server,))


def _raise_open_files() -> None:
    """Take all the descriptors we may have; a replica needs six of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _server(
    settings: Settings,
    layout: Layout,
    host: Host,
    replicas: Replicas,
    builds: Builds,
    pools: WarmPools,
) -> GrpcServer:
    servicer = ReplicaServicer(
        settings=settings.runtime, replicas=replicas, builds=builds, pools=pools, host=host
    )

    def hand_over(_ports: dict[str, int]) -> None:
        # Made 0600 and ours; from now on it is the controllers', and nobody else's.
        _give(layout, host.owner)

    return grpc_component(
        name="spawner",
        binds=[Bind.unix(layout.spawner_socket)],
        services=[
            Service(
                name=SERVICE_NAME,
                add=replicas_pb2_grpc.add_ReplicaServiceServicer_to_server,
                servicer=servicer,
            )
        ],
        auth=None,
        # Watches never end by themselves, and nothing else takes long here.
        options=ServerOptions(drain_grace_secs=0.5),
        on_bound=hand_over,
    )


def _give(layout: Layout, owner: Owner) -> None:
    if os.geteuid() == 0:
        os.chown(layout.spawner_socket, owner.uid, owner.gid, follow_symlinks=False)
