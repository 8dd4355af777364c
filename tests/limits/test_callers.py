"""What one caller may have at once: calls, connections, apps, requests that wait, wrong logins."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import grpc
import pytest
from tests.e2e.server import Answer, Server
from tests.limits.apps import App, wait_for
from tests.limits.wire import Http2, connect

from ignite.v1 import ignite_admin_pb2 as admin
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_admin_pb2_grpc import AdminServiceStub
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

CALLS = 20
HELD = 4
CONNECTIONS = 300
APPS = 40

# Runs until a file of its own is there, which any request with a body makes.
WAITS = """
import asyncio, os, pathlib

FLAG = pathlib.Path(os.environ["HOME"]) / "go"


async def handler(payload, ctx):
    if payload:
        FLAG.write_text("")
    yield b"runs"
    while not FLAG.exists():
        await asyncio.sleep(0.02)
"""


@pytest.fixture
def waits(app: App) -> App:
    """An app whose requests run until they are let go."""
    app.create(max_concurrency=32, scaling={"scale_threshold": 1000})
    app.publish(WAITS)
    return app


class TestCalls:
    """20 calls of one account at once, over gRPC, JSON and HTTP Invoke together."""

    def test_the_next_one_is_refused_by_every_way_and_no_other_caller(
        self, server: Server, waits: App
    ) -> None:
        _, other = account(server, "other-caller")
        request = pb.InvokeRequest(organization_name=server.org, app_name=waits.name)
        with server.channel() as channel:
            compute = ComputeServiceStub(channel)
            invoke = partial(compute.Invoke, metadata=server.metadata, timeout=60)
            calls = [invoke(request) for _ in range(CALLS)]
            assert {next(one).head.status_code for one in calls} == {200}
            listing = pb.ListAppsRequest(organization_name=server.org)
            code, text = refusal(compute, listing, server.token) or (None, "")
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(CALLS) in text
            answer = server.http("GET", f"/v1/ignite/app/{server.org}")
            assert (answer.status, answer.json()["code"]) == (429, 8)
            path = f"/v1/ignite/app/{server.org}/{waits.name}/invoke"
            answer = server.http("POST", path, {})
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert refusal(compute, listing, other) is None
            assert waits.http(b"go").status == 200
            assert {b"".join(frame.chunk for frame in one) for one in calls} == {b"runs"}
            wait_for(lambda: refusal(compute, listing, server.token) is None)

    def test_calls_that_were_given_up_count_no_more(self, server: Server, waits: App) -> None:
        request = pb.InvokeRequest(organization_name=server.org, app_name=waits.name)
        listing = pb.ListAppsRequest(organization_name=server.org)
        with server.channel() as channel:
            compute = ComputeServiceStub(channel)
            calls = [
                compute.Invoke(request, metadata=server.metadata, timeout=60) for _ in range(CALLS)
            ]
            assert {next(one).head.status_code for one in calls} == {200}
            assert refusal(compute, listing, server.token)
            for one in calls:
                one.cancel()
            wait_for(lambda: refusal(compute, listing, server.token) is None)

    def test_http_invokes_count_as_well(self, server: Server, waits: App) -> None:
        listing = pb.ListAppsRequest(organization_name=server.org)
        head = (
            f"POST /v1/ignite/app/{server.org}/{waits.name}/invoke HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {server.token}\r\ncontent-length: 0\r\n\r\n"
        )
        with server.channel() as channel:
            compute = ComputeServiceStub(channel)
            with ExitStack() as stack:
                for _ in range(CALLS):
                    wire = stack.enter_context(connect(server.http_address))
                    wire.sendall(head.encode())
                    assert wire.recv(1024).startswith(b"HTTP/1.1 200 ")
                assert refusal(compute, listing, server.token)
            wait_for(lambda: refusal(compute, listing, server.token) is None)


def refusal(
    compute: ComputeServiceStub, request: pb.ListAppsRequest, token: str
) -> tuple[grpc.StatusCode, str] | None:
    """Return how a call is refused, None where it is not."""
    try:
        compute.ListApps(request, metadata=(("authorization", f"Bearer {token}"),), timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return None


def account(server: Server, name: str, organization: str = "") -> tuple[str, str]:
    """Make another account; return its id and a token of it."""
    with server.admin_channel() as channel:
        stub = AdminServiceStub(channel)
        made = stub.CreateServiceAccount(
            admin.CreateServiceAccountRequest(
                organization_name=organization or server.org,
                name=name,
                roles=["ignite.app-developer"],
            ),
            timeout=20,
        )
        identifier: str = made.service_account.id
        issue = admin.IssueTokenRequest(service_account_id=identifier)
        return identifier, stub.IssueToken(issue, timeout=20).access_token


class TestConnections:
    def test_a_connection_carries_only_so_many_calls(self, server: Server) -> None:
        host, _, port = server.connection["grpc"].rpartition(":")
        for address in ((host, int(port)), server.http_address):
            with connect(address) as wire:
                assert Http2(wire).settings().max_concurrent_streams == 1000

    def test_connections_over_the_bound_are_refused_and_later_ones_served(
        self, server: Server
    ) -> None:
        with many(server.http_address, CONNECTIONS + 20) as wires:
            wait_for(lambda: sum(is_shut(wire) for wire in wires) >= 20)
        wait_for(lambda: serves(server))


@contextmanager
def many(address: tuple[str, int], number: int) -> Iterator[list[socket.socket]]:
    """That many idle connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(number)]


def is_shut(wire: socket.socket) -> bool:
    """Tell whether the other side has closed."""
    wire.setblocking(False)
    try:
        return not wire.recv(1)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def serves(server: Server) -> bool:
    """Tell whether a new connection is served."""
    try:
        return server.http("GET", "/v1/ignite/health", token=None).status == 200
    except (OSError, IndexError):
        return False


class TestApps:
    def test_an_organization_has_only_so_many(self, server: Server) -> None:
        with server.admin_channel() as channel:
            request = admin.CreateOrganizationRequest(name="small")
            AdminServiceStub(channel).CreateOrganization(request, timeout=20)
        _, token = account(server, "filler", "small")
        path = "/v1/ignite/app/small"
        for number in range(APPS):
            made = server.http("POST", path, {"name": f"a{number}"}, token=token)
            assert made.status == 200, made.body
        answer = server.http("POST", path, {"name": "one-more"}, token=token)
        assert (answer.status, answer.json()["code"]) == (429, 8)
        assert str(APPS) in answer.json()["message"]
        assert server.http("GET", f"{path}/one-more", token=token).status == 404
        assert server.http("DELETE", f"{path}/a0", token=token).status == 200
        assert server.http("POST", path, {"name": "one-more"}, token=token).status == 200


SLOW_START = """
import time
time.sleep(1.5)


def handler(payload, ctx):
    return payload
"""


class TestHeld:
    def test_only_so_many_wait_for_an_app_that_starts(self, server: Server, app: App) -> None:
        app.create(scaling={"scaledown_period_secs": 2})
        app.publish(SLOW_START)
        app.asleep()
        with ThreadPoolExecutor(HELD * 4) as pool:
            answers = list(pool.map(lambda n: app.http(f"{n}".encode()), range(HELD * 4)))
        served = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(served) == HELD
        assert len(refused) == HELD * 3
        for answer in refused:
            assert int(answer.headers["retry-after"]) > 0
            assert reason_of(answer) == "TooManyHeld"


def reason_of(answer: Answer) -> str:
    """Return the reason word of an error."""
    reason: str = answer.json()["details"][0]["reason"]
    return reason


class TestLogins:
    def test_wrong_secrets_are_counted_and_a_good_one_of_another_passes(
        self, server: Server
    ) -> None:
        path = "/realms/dodil/protocol/openid-connect/token"
        headers = {"content-type": "application/x-www-form-urlencoded"}

        def login(client: str, secret: str) -> int:
            form = f"grant_type=client_credentials&client_id={client}&client_secret={secret}"
            return server.http("POST", path, form.encode(), headers=headers, token=None).status

        guessed, _ = account(server, "guessed")
        assert [login(guessed, "wrong") for _ in range(6)] == [401] * 5 + [429]
        own = server.connection
        assert login(own["client_id"], own["client_secret"]) == 200
