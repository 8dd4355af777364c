"""The command line in this process, away from the developer's own configuration."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ignite_server import TOKEN, FakeServer, fake_server

from ignite.cli.root import run

VARIABLES = (
    "IGNITE_API_ENDPOINT",
    "IGNITE_GRPC",
    "IGNITE_TOKEN",
    "DODIL_TOKEN",
    "IGNITE_ORG_ID",
    "IGNITE_ORG_NAME",
    "IGNITE_DEBUG",
    "IGNITE_CONFIG_DIR",
    "DODIL_CONFIG_DIR",
    "IGNITE_DATA_DIR",
    "IGNITE_ADMIN_ENDPOINT",
    "IGNITE_PKI_DIR",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return stdout as JSON."""
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, and none of our variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A fake server."""
    with fake_server() as running:
        yield running


@pytest.fixture
def bare(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command with nothing configured."""
    assert home

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def cli(bare: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command against the fake server as organisation acme."""
    monkeypatch.setenv("IGNITE_API_ENDPOINT", server.address)
    monkeypatch.setenv("IGNITE_TOKEN", TOKEN)
    monkeypatch.setenv("IGNITE_ORG_NAME", "acme")
    return bare
