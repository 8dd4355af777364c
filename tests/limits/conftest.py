"""One server whose bounds are low, so that reaching each of them costs little."""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import own_server
from tests.e2e.server import Answer, Server, read_answer
from tests.limits.apps import App
from tests.limits.wire import connect

LOW = {
    "IGNITE__GATEWAY__COLD_START_BUDGET_SECS": "30",
    "IGNITE__GATEWAY__HEAD_SECS": "3",
    "IGNITE__GATEWAY__IDLE_SECS": "3",
    "IGNITE__GATEWAY__LOAD_REPORT_SECS": "0.5",
    "IGNITE__GATEWAY__MAX_CONNECTIONS": "300",
    "IGNITE__GATEWAY__MAX_HELD_PER_APP": "4",
    "IGNITE__GATEWAY__MAX_JSON_BODY_BYTES": "1000000",
    "IGNITE__IDENTITY__FAILED_LOGINS_PER_MINUTE": "5",
    "IGNITE__LIMITS__CALLS_PER_CALLER": "20",
    "IGNITE__LIMITS__APPS_PER_ORGANIZATION": "40",
    "IGNITE__LIMITS__ARCHIVE_BYTES": "20000",
    "IGNITE__LIMITS__ARCHIVE_ENTRIES": "20",
    "IGNITE__LIMITS__BUILD_ARGS": "3",
    "IGNITE__LIMITS__BUILD_ARGS_BYTES": "100",
    "IGNITE__LIMITS__CONCURRENCY": "32",
    "IGNITE__LIMITS__CPU_MILLICORES": "2000",
    "IGNITE__LIMITS__DEFAULT_PAGE_SIZE": "3",
    "IGNITE__LIMITS__DESCRIPTION_CHARS": "100",
    "IGNITE__LIMITS__ENV_BYTES": "1000",
    "IGNITE__LIMITS__ENV_ENTRIES": "5",
    "IGNITE__LIMITS__LABELS": "3",
    "IGNITE__LIMITS__LABEL_CHARS": "16",
    "IGNITE__LIMITS__MEMORY_MB": "1024",
    "IGNITE__LIMITS__MESSAGE_BYTES": "1000000",
    "IGNITE__LIMITS__PAGE_SIZE": "5",
    "IGNITE__LIMITS__PAYLOAD_BYTES": "50000",
    "IGNITE__LIMITS__PORTS_PER_APP": "2",
    "IGNITE__LIMITS__REPLICAS": "20",
    "IGNITE__LIMITS__SCHEMA_BYTES": "500",
    "IGNITE__LIMITS__TIMEOUT_SECS": "120",
    "IGNITE__LIMITS__UNPACKED_BYTES": "2000000",
    "IGNITE__RUNTIME__REQUEST_BYTES": "60000",
    "IGNITE__SCALING__INTERVAL_SECS": "0.2",
    "IGNITE__SCALING__REPLICA_CAP": "3",
    "IGNITE__SCALING__SCALEDOWN_FLOOR_SECS": "2",
}

ECHO = """
def handler(payload, ctx):
    return {"size": len(payload), "app": ctx["function_id"], "said": payload[:64].decode("latin-1")}
"""

Send = Callable[[bytes], Answer]

ROUNDS = int(os.environ.get("LIMITS_SOAK", "1"))
"""How many times as long as usual the long tests may go on."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the whole server."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(300 * ROUNDS))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running server that tests share and leave whole."""
    with own_server(LOW) as running:
        running.start()
        yield running


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A server of the test's own, not started."""
    with own_server(LOW) as own:
        yield own


@pytest.fixture(scope="session")
def echo(server: Server) -> App:
    """A deployed app that says what it got, and for whom."""
    app = App(server, "echo")
    app.create()
    app.publish(ECHO)
    return app


@pytest.fixture
def app(server: Server, request: pytest.FixtureRequest) -> Iterator[App]:
    """An app of the test's own, not made yet, deleted at the end."""
    own = App(server, f"own-{zlib.crc32(request.node.nodeid.encode())}")
    yield own
    own.delete()


@pytest.fixture
def send(server: Server) -> Send:
    """Send bytes as they are to the public listener and read one answer."""

    def exchange(data: bytes) -> Answer:
        with connect(server.http_address) as wire:
            wire.sendall(data)
            return read_answer(wire)

    return exchange
