"""The first request after a pause that outlived every connection, and others around that moment.

What ages in a pause is bound to times of the settings, which are short here: connections of clients
and those behind the listener are closed after three seconds, apps sleep after two.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from tests.e2e.server import Server, read_answer
from tests.limits.apps import App, wait_for
from tests.limits.conftest import ECHO
from tests.limits.wire import connect

from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

AGES = (2.7, 2.9, 2.95, 2.98, 3.0, 3.02, 3.05, 3.1, 3.3)


def test_every_way_in_serves_the_first_request_after_all_connections_ended(
    server: Server, app: App
) -> None:
    app.create(scaling={"scaledown_period_secs": 2})
    app.publish(ECHO)
    health = b"GET /v1/ignite/health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with server.channel() as channel, connect(server.http_address) as wire:
        compute = ComputeServiceStub(channel)
        names = {"organization_name": server.org, "app_name": app.name}
        more = {"metadata": server.metadata, "timeout": 20}
        compute.GetApp(pb.GetAppRequest(**names), **more)  # type: ignore[arg-type]
        wire.sendall(health)
        assert read_answer(wire).status == 200
        app.asleep()
        # The end of this one is the end of all that are as old.
        assert wire.recv(1) == b""
        frames = list(compute.Invoke(pb.InvokeRequest(**names, body=b"a"), **more))  # type: ignore[arg-type]
        assert frames[0].head.status_code == 200
        app.asleep()
        assert app.says(b"b")["said"] == "b"
        assert server.http("GET", f"/v1/ignite/app/{server.org}/{app.name}").status == 200


def test_calls_at_the_very_end_of_an_idle_connection_are_served(server: Server) -> None:
    """Whoever closes first, what is sent in that moment is served over another connection."""

    def first_after(age: float) -> str:
        with server.channel() as channel:
            stub = ComputeServiceStub(channel)
            stub.HealthCheck(pb.HealthCheckRequest(), timeout=20)
            used_at = time.monotonic()
            wait_for(lambda: time.monotonic() - used_at >= age)
            answer: str = stub.HealthCheck(pb.HealthCheckRequest(), timeout=20).status
            return answer

    with ThreadPoolExecutor(len(AGES)) as pool:
        assert set(pool.map(first_after, AGES)) == {"ok"}


def test_the_same_behind_the_http_listener(server: Server) -> None:
    """The API closes idle connections of Envoy's as well; nobody in front of it sees that."""
    address = "{}:{}".format(*server.http_address)
    with grpc.insecure_channel(address) as channel:
        stub = ComputeServiceStub(channel)
        for age in (2.98, 3.02):
            assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=20).status == "ok"
            used_at = time.monotonic()
            wait_for(lambda since=used_at, secs=age: time.monotonic() - since >= secs)  # type: ignore[misc]
        assert server.http("GET", "/v1/ignite/health", token=None).status == 200
