"""Apps that do not start or fall over: their users and their owners hear why, and in time."""

import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tests.e2e.conftest import own_server
from tests.e2e.server import Server

from ignite.v1 import ignite_compute_pb2 as pb

START_SECS = 3
MOODY = {
    "handler.py": (
        "import os, time\n"
        "if os.environ.get('STUCK'):\n"
        "    time.sleep(3600)\n"
        "def handler(payload, ctx):\n"
        "    if payload == b'die':\n"
        "        os._exit(9)\n"
        "    return b'well'\n"
    )
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """A server that gives replicas little time to start and little rest."""
    settings = {
        "IGNITE__RUNTIME__START_TIMEOUT_SECS": str(START_SECS),
        "IGNITE__SCALING__SCALEDOWN_FLOOR_SECS": "1",
    }
    with own_server(settings) as server:
        server.start()
        yield server


def state(server: Server, app: str) -> dict[str, object]:
    """Return what GetAppState says."""
    with server.compute() as stub:
        answer = stub.GetAppState(
            pb.GetAppStateRequest(organization_name=server.org, app_name=app),
            metadata=server.metadata,
            timeout=20,
        )
    return dict(MessageToDict(answer))


def wait_for(what: str, is_so: Callable[[], bool], secs: float = 30) -> None:
    """Return once it is so."""
    ends = time.monotonic() + secs
    while not is_so():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def call(server: Server, app: str, payload: bytes = b"") -> tuple[int, str]:
    """Return status and reason (or body) of a call by host name."""
    answer = server.http("POST", "/", payload, host=server.host_of(app))
    if answer.status == 200:
        return 200, answer.body.decode()
    return answer.status, answer.json()["details"][0]["reason"]


def test_config_with_which_nothing_starts_is_told_and_the_old_replica_serves(
    impatient: Server,
) -> None:
    impatient.deploy("moody", MOODY)
    assert impatient.cli("app", "update", "moody", "--env", "STUCK=1").returncode == 0
    wait_for(
        "the state tells why",
        lambda: state(impatient, "moody").get("lastErrorReason") == "StartTimeout",
    )
    assert call(impatient, "moody") == (200, "well")
    found = state(impatient, "moody")
    assert found["lastError"] == f"not ready within {START_SECS} s"
    assert found["deploymentState"] == "DEPLOYMENT_STATE_DEPLOYED"


def test_asleep_and_unable_to_start_is_a_typed_error_in_time_at_every_door(
    impatient: Server,
) -> None:
    impatient.deploy("stuck", MOODY, "--scaledown-period-secs", "1")
    wait_for(
        "it goes to sleep",
        lambda: state(impatient, "stuck")["deploymentState"] == "DEPLOYMENT_STATE_COLD",
    )
    assert impatient.cli("app", "update", "stuck", "--env", "STUCK=1").returncode == 0
    began = time.monotonic()
    assert call(impatient, "stuck") == (503, "StartTimeout")
    assert time.monotonic() - began < START_SECS + 5
    began = time.monotonic()
    request = pb.InvokeRequest(organization_name=impatient.org, app_name="stuck")
    with impatient.compute() as stub, pytest.raises(grpc.RpcError) as caught:
        list(stub.Invoke(request, metadata=impatient.metadata, timeout=30))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < START_SECS + 5
    assert impatient.cli("app", "update", "stuck", "--clear-env").returncode == 0
    wait_for("it is served again", lambda: call(impatient, "stuck") == (200, "well"))
    assert "lastError" not in state(impatient, "stuck")


def test_requests_that_kill_an_app_keep_others_out_for_seconds_only(impatient: Server) -> None:
    impatient.deploy("fragile", MOODY)
    for _ in range(5):
        assert call(impatient, "fragile", b"die")[0] in (502, 503)
    began = time.monotonic()
    wait_for("it is served again", lambda: call(impatient, "fragile") == (200, "well"))
    assert time.monotonic() - began < 10
