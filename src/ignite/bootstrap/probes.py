"""What GetClusterHealth asks: each part by the shortest question only a working one answers."""

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ignite.backends.pools import SpawnerWarmPools
from ignite.db.database import Database
from ignite.domain.errors import Unavailable
from ignite.domain.health import Health, HealthStatus, SandboxFeature, SandboxHealth
from ignite.gateway.envoy import EnvoyAdmin
from ignite.internal.v1 import replicas_pb2, replicas_pb2_grpc
from ignite.layout import Layout
from ignite.ports.platform import PlatformSecrets
from ignite.services.admin.cluster import Probe, SandboxProbe
from ignite.supervisor.readiness import ready_file

_CALL_SECS = 3.0
_HEALTHY = Health(status=HealthStatus.HEALTHY)


def probes(layout: Layout, database: Database, secrets: PlatformSecrets) -> Mapping[str, Probe]:
    """Return name → probe of every part."""
    envoy = EnvoyAdmin(layout.envoy_admin_socket)
    controllers = grpc.aio.insecure_channel(f"unix:{layout.controllers_socket}")
    spawner = grpc.aio.insecure_channel(f"unix:{layout.spawner_socket}")

    async def postgres() -> Health:
        await database.check()
        return _HEALTHY

    async def secret_store() -> Health:
        await secrets.get("health")
        return _HEALTHY

    async def proxy() -> Health:
        if not await envoy.is_ready():
            return Health(status=HealthStatus.UNHEALTHY, message="Envoy is not ready")
        return _HEALTHY

    async def gateway() -> Health:
        if not ready_file(layout, "gateway").exists():
            return Health(status=HealthStatus.UNHEALTHY, message="the gateway is not ready")
        return _HEALTHY

    async def controller() -> Health:
        return await _serving(controllers)

    async def spawning() -> Health:
        return await _serving(spawner)

    return {
        "postgres": postgres,
        "secrets": secret_store,
        "envoy": proxy,
        "gateway": gateway,
        "controllers": controller,
        "spawner": spawning,
    }


def sandbox_probe(layout: Layout) -> SandboxProbe:
    """Return the question for how well this machine isolates."""
    stub = replicas_pb2_grpc.ReplicaServiceStub(
        grpc.aio.insecure_channel(f"unix:{layout.spawner_socket}")
    )

    async def ask() -> SandboxHealth:
        try:
            found = await stub.GetSandboxReport(
                replicas_pb2.GetSandboxReportRequest(), timeout=_CALL_SECS
            )
        except grpc.aio.AioRpcError as error:
            raise Unavailable("the spawner does not answer") from error
        return SandboxHealth(
            level=found.level,
            required_level=found.required_level,
            sufficient=found.sufficient,
            features=tuple(
                SandboxFeature(name=one.name, enforced=one.enforced, detail=one.detail)
                for one in found.features
            ),
        )

    return ask


def warm_pools(layout: Layout) -> SpawnerWarmPools:
    """Return the pools that the spawner keeps."""
    return SpawnerWarmPools(grpc.aio.insecure_channel(f"unix:{layout.spawner_socket}"))


async def _serving(channel: grpc.aio.Channel) -> Health:
    try:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_SECS)
    except grpc.aio.AioRpcError as error:
        return Health(status=HealthStatus.UNHEALTHY, message=error.code().name)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return Health(status=HealthStatus.DEGRADED, message="not serving now")
    return _HEALTHY
