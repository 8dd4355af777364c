"""Runs one role of the server in this process."""

import asyncio
import gc
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from ignite.layout import Layout
from ignite.lifecycle import Component, stop_on_signals, supervise
from ignite.rpc.request_id import request_id
from ignite.settings import Settings, SettingsError
from ignite.supervisor import readiness
from ignite.telemetry.exposition import MetricsServer
from ignite.telemetry.logs import configure
from ignite.telemetry.metrics import new_registry

Tiers = Sequence[Sequence[Component]]


def now() -> datetime:
    """Return the present moment; components get it handed in."""
    return datetime.now(UTC)


def database_url(settings: Settings) -> str:
    """Return the URL of the database, which the supervisor or an operator has set."""
    if settings.database.url is None:
        raise SettingsError("IGNITE_DATABASE_URL is not set")
    return settings.database.url.get_secret_value()


def run_role(role: str, settings: Settings) -> None:
    """Run one role until SIGTERM; raises what made it end."""
    configure(settings.log.level, role, request_id=request_id)
    module: Any = import_module(f"ignite.bootstrap.{role}")
    layout = Layout(settings.server.data_dir)

    def on_ready() -> None:
        readiness.announce(layout, role)
        # What is there by now stays: modules, and every app. To look through it again and again
        # for garbage would take a tenth of a second each time with ten thousand apps.
        gc.collect()
        gc.freeze()

    registry = new_registry()

    async def main() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await supervise(
            [
                *module.components(settings, layout, registry),
                [MetricsServer(_metrics_socket(settings, layout, role), registry)],
            ],
            on_ready=on_ready,
            stop=stop,
            start_timeout_secs=settings.server.start_timeout_secs,
        )

    if role == "spawner":
        # The parent-death signals of its children follow the thread that forks: the stock loop.
        asyncio.run(main())
    else:
        uvloop.run(main())


def _metrics_socket(settings: Settings, layout: Layout, role: str) -> Path:
    usual = layout.metrics_socket(role)
    folder = settings.server.metrics_dir
    return usual if folder is None else folder / usual.name
