"""The README's tour, typed as it stands: every command of every block, in one shell."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.server import ROOT, Server

BLOCK = re.compile(r"<!-- tour(?:: (?P<needs>\w+))? -->\n```console\n(?P<text>.*?)```", re.DOTALL)


def commands(*, have: set[str]) -> list[str]:
    """Return the lines after `$ ` of the blocks whose program is here."""
    return [
        line.removeprefix("$ ")
        for block in BLOCK.finditer((ROOT / "README.md").read_text())
        if block["needs"] is None or block["needs"] in have
        for line in block["text"].splitlines()
        if line.startswith("$ ")
    ]


def test_tour_has_the_steps_that_it_promises() -> None:
    text = "\n".join(commands(have={"grpcurl"}))
    for part in ("app deploy", "invoke", "curl", "grpcurl", "version list", "secret create"):
        assert part in text


def test_every_command_of_the_tour_works(fresh: Server) -> None:
    home = fresh.data.parent
    (home / ".ignite").symlink_to(fresh.data)
    (home / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(ROOT / "examples", home / "examples")
    fresh.start()
    have = {name for name in ("grpcurl",) if shutil.which(name, path=f"{sys.prefix}/bin")}
    script = "\n".join(["set -euo pipefail", *commands(have=have)])
    environment = {
        name: value for name, value in fresh.environment.items() if not name.startswith("IGNITE")
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("Hello, Ada!") >= 3
    if not have:
        pytest.skip("grpcurl is missing (make tools); the rest of the tour worked")
