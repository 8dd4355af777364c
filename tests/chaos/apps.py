"""The app under load and how it is changed: gRPC calls that wait until the change is served."""

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from tests.chaos.load import Target
from tests.e2e.server import Server, processes_of

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

CALL_SECS = 30.0
LOOK_SECS = 0.01
ONE_REPLICA: dict[str, Any] = {"scaledown_period_secs": 2, "scale_threshold": 1000}
"""No second replica is started for the load, and none is kept for long."""

HANDLER = """
import asyncio, os

REPLICA = os.urandom(6).hex()
VERSION = "{version}"
times = {{}}


async def handler(payload, ctx):
    nonce, *orders = payload.decode().split()
    orders = dict(order.split("=") for order in orders)
    times[nonce] = times.get(nonce, 0) + 1
    print("ran", nonce, flush=True)
    if "exit" in orders:
        os._exit(int(orders["exit"]))
    await asyncio.sleep(float(orders.get("secs", "0.02")))
    return {{
        "nonce": nonce,
        "version": VERSION,
        "replica": REPLICA,
        "times": times[nonce],
        "app": ctx["function_id"],
        "mark": os.environ.get("MARK", ""),
    }}
"""


class App:
    """One app of a server; all methods block and are meant for `asyncio.to_thread`."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self._channel = grpc.insecure_channel(server.connection["grpc"])
        self._stub = ComputeServiceStub(self._channel)
        self._names: dict[str, Any] = {"organization_name": server.org, "app_name": name}

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    @property
    def target(self) -> Target:
        """Whom the load calls."""
        return Target(
            address=self.server.http_address,
            host=self.server.host_of(self.name),
            app_id=f"{self.server.org}/{self.name}",
            token=self.server.token,
        )

    def exists(self) -> bool:
        """Tell whether the server knows it."""
        try:
            self.state()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    def create(self, **scaling: int) -> None:
        """Create it, with a timeout that is longer than any test's request."""
        request = pb.CreateAppRequest(
            organization_name=self.server.org,
            name=self.name,
            scaling=common.ScalingConfig(**{**ONE_REPLICA, **scaling}),
            limits=common.ResourceLimits(timeout_secs=120),
        )
        self._call(self._stub.CreateApp, request)

    def publish(self, version: str) -> float:
        """Publish code that says it is `version`; return when it was seen to be active."""
        return self._activated(self.begin_publish(version))

    def begin_publish(self, version: str) -> int:
        """Publish; return the number as soon as that is accepted."""
        source = common.CompileSource(
            runtime=common.Runtime(python=common.PythonRuntime()), archive=archive(version)
        )
        code = common.CodeSource(compile=source)
        self._call(self._stub.SaveDraft, pb.SaveDraftRequest(**self._names, code=code))
        self._call(self._stub.CompileDraft, pb.CompileDraftRequest(**self._names))
        wait_for(lambda: self._draft().status != common.VERSION_STATUS_COMPILING)
        assert self._draft().status == common.VERSION_STATUS_DRAFT, self._draft()
        request = pb.PublishDraftRequest(**self._names)
        number: int = self._call(self._stub.PublishDraft, request).version
        return number

    def rollback(self, number: int) -> float:
        """Go back to a version; return when it was seen to be active."""
        self._call(self._stub.RollbackApp, pb.RollbackAppRequest(**self._names, version=number))
        return self._activated(number)

    def configure(self, *paths: str, **fields: Any) -> None:
        """Change the configuration."""
        request = pb.UpdateAppConfigRequest(**self._names, **fields)
        request.update_mask.paths.extend(paths or fields)
        self._call(self._stub.UpdateAppConfig, request)

    def delete(self) -> float:
        """Delete it; return when that was answered."""
        self._call(self._stub.DeleteApp, pb.DeleteAppRequest(**self._names))
        return time.monotonic()

    def state(self) -> pb.GetAppStateResponse:
        """Return how it stands."""
        found: pb.GetAppStateResponse = self._call(
            self._stub.GetAppState, pb.GetAppStateRequest(**self._names)
        )
        return found

    def ready(self, number: int) -> None:
        """Wait until so many replicas are ready and no others are left."""
        states = [common.REPLICA_STATE_READY] * number
        wait_for(lambda: [replica.state for replica in self.state().replicas] == states)

    def asleep(self) -> None:
        """Wait until it was scaled to zero."""
        cold = common.DEPLOYMENT_STATE_COLD
        wait_for(lambda: self.state().deployment_state == cold and not self.state().replicas)

    def runs(self) -> list[str]:
        """Return the nonces of all runs, of every replica, as the replicas wrote them down."""
        found = []
        for folder in (self.server.data / "replicas").glob(f"{self.name}-*"):
            for path in (folder / "log.1", folder / "log"):
                lines = path.read_text().splitlines() if path.exists() else ()
                words = [json.loads(line)["message"].split() for line in lines]
                found += [word[1] for word in words if len(word) == 2 and word[0] == "ran"]
        return found

    def _draft(self) -> pb.DraftInfo:
        request = pb.GetDraftInfoRequest(**self._names)
        found: pb.DraftInfo = self._call(self._stub.GetDraftInfo, request).draft
        return found

    def _activated(self, number: int) -> float:
        wait_for(lambda: self.state().active_version == number)
        return time.monotonic()

    def _call(self, method: Callable[..., Any], request: object) -> Any:
        return method(
            request, metadata=self.server.metadata, timeout=CALL_SECS, wait_for_ready=True
        )


def archive(version: str) -> bytes:
    """Return the app's code, the same bytes for the same version."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as pack:
        pack.writestr(zipfile.ZipInfo("handler.py"), HANDLER.format(version=version))
    return made.getvalue()


def wait_for(is_so: Callable[[], bool], *, secs: float = 60.0) -> None:
    """Ask until it is so: what is asked is another process, which tells nobody."""
    ends = time.monotonic() + secs
    while not is_so():
        assert time.monotonic() < ends, f"not so within {secs} s"
        time.sleep(LOOK_SECS)


def pids_of(server: Server, part: str) -> Sequence[int]:
    """Return the processes of one part: a role's, or the main one of a server beside it."""
    return [pid for pid in processes_of(server.data) if part_of(pid) == part]


def part_of(pid: int) -> str:
    """Return which part a process is: `python -m ignite <role>`, or the program's name."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if "ignite" in words:
            return words[words.index("ignite") + 1]
        # A worker of Postgres has its postmaster as parent and names itself otherwise.
        return Path(words[0]).name if len(words) > 2 else ""
    except (OSError, IndexError):
        return ""


class Part:
    """One part of a server, which has one process."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._name = name
        found = pids_of(server, name)
        assert len(found) == 1, f"{name}: {found}"
        self._pid = found[0]

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self._pid, number)

    def is_back(self) -> bool:
        """Tell whether another process has taken its place."""
        now = pids_of(self._server, self._name)
        return len(now) == 1 and now[0] != self._pid
