"""The server's commands: settings in, one role run. No logic.

Everything else of the server is imported by the command that runs it, so that each process loads
only its own part.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ignite.cli.failures import Failure
from ignite.settings import Settings, SettingsError


@click.group()
def roles() -> None:
    """Run the server or one of its parts."""


def _settings(overrides: dict[str, dict[str, object]] | None = None) -> Settings:
    try:
        return Settings.load(overrides=overrides)
    except SettingsError as error:
        raise Failure(str(error)) from error


def _part(name: str) -> Any:
    """Import a module of the server; what it is made of may not be installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "ignite":
            raise
        raise Failure(
            f"a part of the server is not installed ({error.name}): pip install 'ignite[server]'"
        ) from error


def _overrides(
    data_dir: Path | None, insecure_plaintext: bool, require_isolation: bool
) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    if data_dir is not None:
        found.setdefault("server", {})["data_dir"] = data_dir
    if insecure_plaintext:
        found.setdefault("server", {})["insecure_plaintext"] = True
    if require_isolation:
        found.setdefault("runtime", {})["require_isolation"] = True
    return found


@roles.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Holds everything; default .ignite."
)
@click.option("--insecure-plaintext", is_flag=True, help="Allow plain text beyond loopback.")
@click.option(
    "--require-isolation", is_flag=True, help="Refuse code where a sandbox layer is missing."
)
def serve(data_dir: Path | None, insecure_plaintext: bool, require_isolation: bool) -> None:
    """Run the whole server on this machine."""
    settings = _settings(_overrides(data_dir, insecure_plaintext, require_isolation))
    _configure_logs(settings, "supervisor")
    module: Any = _part("ignite.bootstrap.serve")
    failures: Any = _part("ignite.bootstrap.failures")
    try:
        module.run_server(settings, click.echo)
    except failures.FOR_THE_OPERATOR as error:
        raise Failure(str(error)) from error


def _role(name: str, about: str) -> None:
    @roles.command(name=name, help=about)
    def run() -> None:
        settings = _settings()
        bootstrap: Any = _part("ignite.bootstrap.run")
        try:
            bootstrap.run_role(name, settings)
        except SettingsError as error:
            raise Failure(str(error)) from error


_role("api", "Serve the public gRPC services, AdminService and the HTTP edge.")
_role("controllers", "Converge deployments and run builds.")
_role("gateway", "Tell Envoy the routes and wake sleeping apps.")
_role("spawner", "Own replicas and compiles; keeps root.")


@roles.command()
def migrate() -> None:
    """Bring the database's schema to this release."""
    settings = _settings()
    _configure_logs(settings, "migrate")
    bootstrap: Any = _part("ignite.bootstrap.migrate")
    try:
        bootstrap.run_migrations(settings)
    except SettingsError as error:
        raise Failure(str(error)) from error


@roles.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Default .ignite.")
def doctor(data_dir: Path | None) -> None:
    """Check every part of this machine and say how to fix what is wrong."""
    settings = _settings(_overrides(data_dir, False, False))
    module: Any = _part("ignite.bootstrap.doctor")
    if not module.run_doctor(settings, click.echo):
        sys.exit(1)


def _configure_logs(settings: Settings, role: str) -> None:
    logs: Any = _part("ignite.telemetry.logs")
    logs.configure(settings.log.level, role)
