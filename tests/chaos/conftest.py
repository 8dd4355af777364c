"""One server for all tests that leave it whole, with waits as short as they can be set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.apps import App
from tests.chaos.load import Report
from tests.e2e.conftest import own_server
from tests.e2e.server import Server

FAST = {
    "IGNITE__SCALING__SCALEDOWN_FLOOR_SECS": "2",
    "IGNITE__SCALING__INTERVAL_SECS": "0.2",
    "IGNITE__GATEWAY__LOAD_REPORT_SECS": "0.5",
}
"""An app goes to zero two seconds after its last request."""

LONG_SECS = float(os.environ.get("CHAOS_SECS", "0"))

Show = Callable[[Report], None]
MakeApp = Callable[..., App]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the whole server, and a machine that does nothing else with it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(300 + 2 * LONG_SECS))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running server that tests share and leave whole."""
    with own_server(FAST) as running:
        running.start()
        yield running


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A server of the test's own, not started."""
    with own_server(FAST) as own:
        yield own


@pytest.fixture
def rate() -> float:
    """Requests a second."""
    return float(os.environ.get("CHAOS_RATE", "80"))


@pytest.fixture
def secs() -> float:
    """How long load goes on before and after what happens to it."""
    return LONG_SECS or 1.0


@pytest.fixture
def make_app(request: pytest.FixtureRequest) -> Iterator[MakeApp]:
    """Makes an app with version 1 published on a server, named after the test."""
    made: list[App] = []

    def make(server: Server, name: str, **scaling: int) -> App:
        app = App(server, name)
        made.append(app)
        app.create(**scaling)
        app.publish("1")
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Show:
    """Prints the figures of a load; also to the file that CHAOS_REPORT names."""

    def tell(report: Report) -> None:
        line = f"{request.node.name}: {report.row()}"
        print(line)
        if path := os.environ.get("CHAOS_REPORT"):
            with Path(path).open("a") as file:
                file.write(line + "\n")

    return tell
