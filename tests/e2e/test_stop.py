"""A server that is asked to stop: it finishes what it has begun and takes nothing new."""

import base64
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.e2e.server import Server

from ignite.layout import Layout
from ignite.v1 import ignite_compute_pb2 as pb

SLOW = {
    "handler.py": (
        "import time\n"
        "under_way = []\n"
        "def handler(payload, ctx):\n"
        "    if payload == b'?':\n"
        "        return str(len(under_way))\n"
        "    under_way.append(payload)\n"
        "    time.sleep(float(payload))\n"
        "    return b'done'\n"
    )
}
SECS = b"4"


class Calls:
    """Requests that are under way in threads of their own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.answers: dict[str, Any] = {}

    def begin(self, name: str, call: Callable[[], Any]) -> None:
        """Send one; its answer is kept, and so is its failure."""

        def run() -> None:
            try:
                self.answers[name] = call()
            except (grpc.RpcError, OSError, IndexError, ValueError) as error:
                self.answers[name] = repr(error)

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def end(self) -> dict[str, Any]:
        """Return the answers once all are there."""
        for thread in self._threads:
            thread.join(60)
        return self.answers


def begun(server: Server, count: int) -> None:
    """Return once the app has said that it works on so many."""
    ends = time.monotonic() + 30
    while server.invoke("slow", "?") != str(count):
        assert time.monotonic() < ends, "the requests did not reach the app"


def test_requests_under_way_finish_and_new_ones_are_refused(fresh: Server) -> None:
    fresh.start()
    fresh.deploy("slow", SLOW)
    token, metadata = fresh.token, fresh.metadata
    path = f"/v1/ignite/app/{fresh.org}/slow/invoke"
    body = {"body": base64.b64encode(SECS).decode()}
    request = pb.InvokeRequest(organization_name=fresh.org, app_name="slow", body=SECS)

    def by_grpc() -> bytes:
        with fresh.compute() as stub:
            return b"".join(frame.chunk for frame in stub.Invoke(request, metadata=metadata))

    calls = Calls()
    calls.begin("host", lambda: fresh.http("POST", "/", SECS, host=fresh.host_of("slow")).body)
    calls.begin("http", lambda: fresh.http("POST", path, body, token=token).body)
    calls.begin("grpc", by_grpc)
    begun(fresh, 3)
    os.kill(fresh.pid, signal.SIGTERM)
    refused = False
    while not refused and fresh.is_running():
        try:
            fresh.http("GET", "/v1/ignite/health", token=None)
        except OSError:
            refused = True
    assert refused
    assert "host" not in calls.answers, "new ones are refused before old ones are done"
    assert not (fresh.data / "connection.json").exists()
    assert fresh.stop() == 0
    assert not Layout(fresh.data).run.exists()
    assert calls.end() == {"host": b"done", "http": b"done", "grpc": b"done"}


def test_stop_while_starting_is_clean(fresh: Server) -> None:
    def start() -> None:
        with pytest.raises(AssertionError, match="the server ended with 0"):
            fresh.start()

    calls = Calls()
    calls.begin("start", start)
    ends = time.monotonic() + 60
    while not (fresh.data / "logs" / "postgres.log").exists():
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert fresh.stop() == 0
    assert calls.end() == {"start": None}
