"""What an operator reads of a running server, and nobody else."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import HELLO, folder
from tests.e2e.server import Answer, Server, read_answer
from tests.e2e.test_trouble import state, wait_for

from ignite.v1 import ignite_compute_pb2 as pb

ROLES = ("api", "controllers", "gateway", "spawner")
WAIT = "ignite_cold_start_wait_seconds"


@pytest.fixture(scope="module")
def measured() -> Iterator[Server]:
    """A server of its own, so that nobody else's cold starts are counted."""
    with folder() as home:
        sockets = home / "metrics"
        sockets.mkdir()
        sockets.chmod(0o777)
        settings = {
            "IGNITE__SCALING__SCALEDOWN_FLOOR_SECS": "1",
            "IGNITE__SERVER__METRICS_DIR": str(sockets),
        }
        server = Server(home / "data", settings)
        try:
            server.start()
            assert sorted(os.listdir(sockets)) == [f"metrics-{role}.sock" for role in ROLES]
            yield server
        finally:
            if server.is_running():
                server.stop()
        assert os.listdir(sockets) == []


def get(server: Server, role: str, request: str = "GET /metrics") -> Answer:
    """Ask a role on its socket."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(place(server, role)))
        wire.sendall(f"{request} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return read_answer(wire)


def place(server: Server, role: str) -> Path:
    return server.data.parent / "metrics" / f"metrics-{role}.sock"


def value(server: Server, role: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    text = get(server, role).body.decode()
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


@pytest.mark.parametrize("role", ROLES)
def test_every_role_answers_its_operator_alone(measured: Server, role: str) -> None:
    answer = get(measured, role)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b"process_resident_memory_bytes" in answer.body
    assert place(measured, role).stat().st_mode & 0o777 == 0o600
    assert get(measured, role, "GET /").status == 404
    assert get(measured, role, "POST /metrics").status == 405


def test_a_cold_start_is_one_more_observation_on_both_sides(measured: Server) -> None:
    measured.deploy("hello", HELLO, "--scaledown-period-secs", "1")
    wait_for(
        "it goes to sleep",
        lambda: state(measured, "hello")["deploymentState"] == "DEPLOYMENT_STATE_COLD",
    )
    starts = value(measured, "spawner", "ignite_cold_start_seconds_count")
    waits = value(measured, "gateway", f"{WAIT}_count")
    answer = measured.http("POST", "/", host=measured.host_of("hello"))
    assert answer.status == 200
    # Counted when the answer is out.
    wait_for("it is counted", lambda: value(measured, "gateway", f"{WAIT}_count") > waits)
    assert value(measured, "gateway", f"{WAIT}_count") == waits + 1
    assert value(measured, "spawner", "ignite_cold_start_seconds_count") == starts + 1
    text = get(measured, "spawner").body.decode()
    kinds = {*re.findall(r'ignite_cold_start_seconds_count{kind="(\w+)",language="python"}', text)}
    assert kinds <= {"pool", "fork", "bubblewrap"}
    assert kinds
    # A caller waits for at least what the start took, and both were more than nothing.
    assert 0 < value(measured, "gateway", f"{WAIT}_sum") < 600


def test_calls_are_counted_by_method(measured: Server) -> None:
    state_calls = 'ignite_rpc_calls_total{code="OK",method="/dodil.ignite.v1.ComputeService/'
    before = get(measured, "api").body.decode()
    with measured.compute() as stub:
        stub.HealthCheck(pb.HealthCheckRequest(), metadata=measured.metadata, timeout=20)
    after = get(measured, "api").body.decode()
    assert f"{state_calls}HealthCheck" in after
    assert before != after


def test_no_name_of_an_app_or_a_tenant_is_told(measured: Server) -> None:
    for role in ROLES:
        text = get(measured, role).body
        assert b"hello" not in text
        assert measured.org.encode() not in text


def test_no_public_listener_has_them(measured: Server) -> None:
    for host in (None, measured.host_of("hello")):
        for token in ("", None):
            answer = measured.http("GET", "/metrics", host=host, token=token)
            assert b"process_resident_memory_bytes" not in answer.body
            assert b"ignite_" not in answer.body
