"""The whole server on one machine: its parts as children, in the order of need."""

import asyncio
import time

from pydantic import SecretStr

from ignite.children import Child, ChildSpec
from ignite.db.embedded import EmbeddedPostgres
from ignite.gateway.envoy import EnvoyAdmin, envoy_process
from ignite.layout import Layout
from ignite.lifecycle import Component, Together, stop_on_signals, supervise
from ignite.privileges import Owner
from ignite.sandbox.interpreters import home_prefixes
from ignite.secretstores.embedded import EmbeddedOpenBao
from ignite.settings import Settings
from ignite.supervisor.connection import ConnectionFile
from ignite.supervisor.front import PublicDoor
from ignite.supervisor.roles import role_child
from ignite.supervisor.schema import Schema
from ignite.supervisor.serve import Ground, Say, States, serve, welcome


def run_server(settings: Settings, say: Say) -> None:
    """Run the server until SIGTERM or SIGINT; raises what is for the operator."""
    began = time.monotonic()
    serve(
        settings,
        say,
        lambda ground, say: asyncio.run(_run(ground, say, began)),
        programs=home_prefixes(),
    )


async def _run(ground: Ground, say: Say, began: float) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    states = States(say)
    connection = ConnectionFile(
        ground.layout, ground.addresses, ground.settings.dns_tls.base_domain
    )

    def on_ready() -> None:
        states.is_serving = True
        welcome(say, connection, ground, time.monotonic() - began)

    await supervise(
        [*_tiers(ground, states), [connection]],
        on_ready=on_ready,
        stop=stop,
        start_timeout_secs=ground.settings.server.start_timeout_secs,
    )


def _tiers(ground: Ground, states: States) -> list[list[Component]]:
    """Return database → schema → everything else; what needs the store of secrets waits for it.

    On the way down each part outlives those that send it requests: the door and the API, Envoy, the
    gateway, the controllers, then what keeps the replicas.
    """
    settings, layout, owner = ground.settings, ground.layout, ground.owner

    def child(spec: ChildSpec) -> Child:
        return Child(spec, on_state=states.changed)

    database: list[Component] = []
    if settings.database.url is None:
        postgres = EmbeddedPostgres(layout, settings.log, owner)
        database.append(child(postgres.child()))
        url = SecretStr(postgres.url())
        settings = settings.model_copy(
            update={"database": settings.database.model_copy(update={"url": url})}
        )
    ground_floor: list[Component] = []
    if not settings.vault.address:
        openbao = EmbeddedOpenBao(layout, settings.log, owner)
        ground_floor.append(child(openbao.child()))
        vault = openbao.settings().model_copy(update={"timeout_secs": settings.vault.timeout_secs})
        settings = settings.model_copy(update={"vault": vault})
    ground_floor.append(child(role_child("spawner", settings, layout, None)))
    door = PublicDoor(
        EnvoyAdmin(layout.envoy_admin_socket), grace_secs=settings.server.drain_grace_secs
    )
    rest = Together(
        ground_floor,
        [child(role_child("controllers", settings, layout, owner))],
        [child(role_child("gateway", settings, layout, owner))],
        [child(_envoy(settings, layout, owner))],
        [child(role_child("api", settings, layout, owner)), door],
    )
    return [database, [Schema(settings, layout)], [rest, ground.certificates]]


def _envoy(settings: Settings, layout: Layout, owner: Owner | None) -> ChildSpec:
    process = envoy_process(
        layout,
        config_path=layout.gateway / "envoy.json",
        concurrency=settings.gateway.concurrency,
        max_connections=settings.gateway.max_connections,
        external_jwks_url=settings.identity.external_jwks_url,
    )

    async def write_config() -> None:
        process.config_path.write_text(process.config)
        process.config_path.chmod(0o644)
        for socket in (layout.envoy_admin_socket, layout.internal_socket):
            socket.unlink(missing_ok=True)

    return ChildSpec(
        name="envoy",
        argv=process.argv,
        env={"LANG": "C.UTF-8"},
        prepare=write_config,
        probe=EnvoyAdmin(layout.envoy_admin_socket).is_ready,
        log_path=layout.logs / "envoy.log",
        uid=owner.uid if owner else None,
        gid=owner.gid if owner else None,
        stop_grace_secs=settings.server.drain_grace_secs + 5,
        start_timeout_secs=settings.server.start_timeout_secs,
        log_rotate_bytes=settings.log.rotate_bytes,
        log_rotate_count=settings.log.rotate_count,
    )
