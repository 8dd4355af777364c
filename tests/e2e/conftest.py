"""One server for all tests of this tier, and a fresh one for those that break theirs."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.server import Server

ServerFactory = Callable[..., Server]

HELLO = {
    "handler.py": (
        "def handler(payload, ctx):\n"
        "    name = payload.decode() or 'world'\n"
        "    return {'hello': name, 'app': ctx['function_id']}\n"
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the whole server."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(300))


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that the server's other users may pass through; pytest's own may not be."""
    made = Path(tempfile.mkdtemp(prefix="ignite-e2e-"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def own_server(settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server in a folder of its own, not started; stopped at the end where it still runs."""
    with folder() as home:
        own = Server(home / "data", settings)
        try:
            yield own
        finally:
            if own.is_running():
                own.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running server that tests share and leave whole."""
    with own_server() as running:
        running.start()
        yield running


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A server of the test's own, not started."""
    with own_server() as own:
        yield own


@pytest.fixture(scope="session")
def hello(server: Server) -> str:
    """The name of a deployed app that greets."""
    server.deploy("hello", HELLO)
    return "hello"
