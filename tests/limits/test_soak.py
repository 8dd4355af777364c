"""No kind of request, good or bad, makes a process grow: memory per request is measured after a
warm-up. Short here; `LIMITS_SOAK` multiplies the rounds."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tests.e2e.server import Server, processes_of
from tests.limits.apps import App, packed, python
from tests.limits.conftest import ECHO
from tests.limits.test_frames import exchange, head
from tests.limits.wire import connect, grpc_frame

from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

TIMES = int(os.environ.get("LIMITS_SOAK", "1"))
ROUNDS = 2 * TIMES
EACH = 60
# What a request may leave behind on average, over all processes. A leaked call, stream, task or
# connection is more than ten KiB with what hangs on it; allocators alone stay well below over time.
MOST_KIB_A_REQUEST = 4.0
ALLOWANCE_KIB = 8 * 1024

Kind = Callable[[Server, App], None]


def warm(server: Server, app: App) -> None:
    for _ in range(EACH):
        assert app.http(b"x").status == 200


def refused(server: Server, app: App) -> None:
    """No token, a bad one, no such app, no such path, a body that is too large."""
    for _ in range(EACH // 6):
        assert app.http(b"x", token=None).status == 401
        assert app.http(b"x", token="e30.e30.e30").status == 401
        assert server.http("GET", "/", host=server.host_of("no-such")).status == 404
        assert server.http("GET", "/v1/ignite/nothing").status == 404
        assert server.http("POST", f"/v1/ignite/app/{server.org}", b"{").status == 400
        assert app.http(b"x" * 60_001).status == 413


def broken(server: Server, app: App) -> None:
    """Bytes that are no request, and clients that leave in the middle of one."""
    name, _, port = server.connection["grpc"].rpartition(":")
    for _ in range(EACH // 4):
        for data in (b"\0\r\n\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx"):
            with connect(server.http_address) as wire:
                wire.sendall(data)
        with connect((name, int(port))) as wire:
            wire.sendall(b"PRI * HT")
        exchange(server, (name, int(port)), head(), grpc_frame(b"\xff"))


def calls(server: Server, app: App) -> None:
    """Calls of the API, and streams that are given up after their head."""
    with server.channel() as channel:
        stub = ComputeServiceStub(channel)
        invoke = pb.InvokeRequest(organization_name=server.org, app_name=app.name, body=b"x")
        for _ in range(EACH // 3):
            listing = pb.ListAppsRequest(organization_name=server.org)
            stub.ListApps(listing, metadata=server.metadata, timeout=20)
            stream = stub.Invoke(invoke, metadata=server.metadata, timeout=20)
            assert next(stream).head.status_code == 200
            stream.cancel()
            missing = pb.GetAppRequest(organization_name=server.org, app_name="no-such")
            with pytest.raises(grpc.RpcError):
                stub.GetApp(missing, metadata=server.metadata, timeout=20)


def drafts(server: Server, app: App) -> None:
    for number in range(EACH // 12):
        code = python(packed(f"{ECHO}\n# {number}"))
        app.call("SaveDraft", {"app_name": app.name, "code": code})


KINDS: tuple[Kind, ...] = (warm, refused, broken, calls, drafts)
REQUESTS = EACH * 5


def one_round(server: Server, app: App) -> None:
    """Send all kinds at once, then make and take away an app that served once."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for future in [pool.submit(kind, server, app) for kind in KINDS]:
            future.result()
    passing = App(server, "passing")
    passing.create(scaling={"scaledown_period_secs": 2})
    passing.publish(ECHO)
    assert passing.says(b"awake")["said"] == "awake"
    passing.delete()


def memory_of(server: Server) -> dict[str, int]:
    """Return the private memory of every process that lives as long as the server, in KiB."""
    found: dict[str, int] = {}
    for pid in processes_of(server.data):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        role = words[words.index(b"ignite") + 1].decode() if b"ignite" in words else ""
        name = role or Path(words[0].decode(errors="replace")).name
        if name in LASTING:
            found[f"{name} {pid}"] = sum(map(int, re.findall(r"^Private_\w+: +(\d+)", text, re.M)))
    return found


LASTING = {"serve", "api", "controllers", "gateway", "spawner", "envoy", "bao"}


def test_memory_stays_as_it_is(server: Server, app: App) -> None:
    app.create(scaling={"reserved_capacity": 1, "scale_threshold": 1000})
    app.publish(ECHO)
    one_round(server, app)
    before = memory_of(server)
    assert len(before) >= 6, before
    for _ in range(ROUNDS):
        one_round(server, app)
    after = memory_of(server)
    assert set(after) >= set(before), "a process was started anew"
    growth = {name: after[name] - before[name] for name in before}
    print(f"requests: {ROUNDS * REQUESTS}, growth in KiB: {growth}")
    most = ALLOWANCE_KIB + MOST_KIB_A_REQUEST * ROUNDS * REQUESTS
    assert max(growth.values()) < most, growth
