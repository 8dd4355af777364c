"""Attacks that come by `ignite app deploy`, through the whole server, while an app is served."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.e2e.conftest import folder
from tests.e2e.server import Server
from tests.isolation.neighbours import CODE, Neighbour, wait_until
from tests.isolation.rig import long
from tests.isolation.test_compiles import package
from tests.isolation.test_reach import deploy, post
from tests.support.spawner import needs_bwrap, needs_root

from ignite.layout import Layout
from ignite.sandbox.cgroups import ControlGroups

pytestmark = [needs_root, needs_bwrap, pytest.mark.timeout(300)]

ARTIFACT_BYTES = 16 * 1024 * 1024
TIMEOUT_SECS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that gives compiles little."""
    with folder() as home:
        bounds = {
            "IGNITE__BUILD__ARTIFACT_BYTES": str(ARTIFACT_BYTES),
            "IGNITE__BUILD__TIMEOUT_SECS": str(TIMEOUT_SECS),
            "IGNITE__BUILD__MEMORY_MB": "192",
        }
        running = Server(home / "data", bounds)
        try:
            running.start()
            deploy(running, "neighbour", CODE)
            yield running
        finally:
            if running.is_running():
                assert running.stop() == 0


@pytest.fixture(scope="module")
def neighbour(server: Server) -> Iterator[Neighbour]:
    with Neighbour(lambda body: post(server, "neighbour", body)).called() as made:
        yield made


def attack(server: Server, app: str, files: Mapping[str, str]) -> tuple[int, str]:
    """Deploy an app; return the exit code and what the command line said."""
    with tempfile.TemporaryDirectory() as made:
        for name, text in files.items():
            path = Path(made) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = server.cli("app", "deploy", app, "--code", made)
    return done.returncode, done.stderr


def nothing_is_left(server: Server) -> bool:
    """Tell whether of all compiles only artifacts are there."""
    layout = Layout(data=server.data)
    groups = [group.name for group in ControlGroups(layout.run.name).find()]
    return not (
        os.listdir(layout.replicas / ".builds")
        or os.listdir(layout.builds)
        or [name for name in groups if name.startswith("build.")]
    )


@pytest.mark.parametrize(
    ("name", "code", "reasons"),
    [
        pytest.param(
            "forks",
            "while True:\n    try: os.fork()\n    except OSError: pass",
            ("Timeout", "DependencyInstallFailed", "OutOfMemory"),
            marks=long,
        ),
        (
            "memory",
            "kept = [bytearray(1 << 20) for _ in range(4000)]",
            ("OutOfMemory", "DependencyInstallFailed"),
        ),
        pytest.param(
            "disk",
            f"open('/build/x', 'wb').write(bytes({4 * ARTIFACT_BYTES}))\n"
            "import time; time.sleep(1000)",
            ("DiskFull", "Timeout"),
            marks=long,
        ),
        ("endless", "while True: pass", ("Timeout",)),
        ("link", "os.symlink('/etc/passwd', '/out/link')", ("ArtifactRefused",)),
        (
            "root",
            "open('/usr/x', 'w')",
            ("DependencyInstallFailed",),
        ),
    ],
    ids=["forks", "memory", "disk", "endless", "link", "root"],
)
def test_a_compile_that_attacks_fails_with_a_reason_and_leaves_nothing(
    server: Server, neighbour: Neighbour, name: str, code: str, reasons: tuple[str, ...]
) -> None:
    exit_code, words = attack(server, f"evil-{name}", package(code))
    assert exit_code != 0
    assert [reason for reason in reasons if reason in words], words
    wait_until("nothing is left", lambda: nothing_is_left(server))
    neighbour.is_served()


def test_one_that_floods_the_log_and_prints_rubbish_is_deployed_and_bounded(
    server: Server, neighbour: Neighbour
) -> None:
    flood = "for _ in range(200): os.write(2, bytes(range(256)) * 256)"
    exit_code, words = attack(server, "flood", package(flood))
    assert exit_code == 0, words
    shown = server.cli("draft", "compile-logs", "flood")
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout) < 8 * 1024 * 1024
    wait_until("nothing is left", lambda: nothing_is_left(server))
    neighbour.is_served()


def test_an_app_that_attacks_while_it_is_loaded_is_told_and_harms_nobody(
    server: Server, neighbour: Neighbour
) -> None:
    handler = (
        "import os\n"
        "try: os.kill(-1, 9)\n"
        "except ProcessLookupError: os.kill(os.getpid(), 9)\n"
        "def handler(b, c): pass\n"
    )
    exit_code, words = attack(server, "dies", {"handler.py": handler})
    assert exit_code != 0
    assert "Crashed" in words, words
    neighbour.is_served()
