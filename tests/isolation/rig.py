"""A spawner under attack: the attacker's app, and another tenant's that is called meanwhile."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.neighbours import CODE, Neighbour
from tests.support.spawner import WAYS, Client, Spawner, call

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.sandbox.cgroups import find_controllers

# Attacks that take long, or whose like is tried more cheaply beside them.
IN_FULL = bool(os.environ.get("ISOLATION_LONG"))
long = pytest.mark.skipif(not IN_FULL, reason="ISOLATION_LONG is not set")

# Runs the posted Python and answers its `result`, or the number of the OSError it ends with.
PROBE = """
    def handler(body, context):
        names = {}
        try:
            exec(body.decode(), names)
        except OSError as error:
            return {"error": type(error).__name__, "errno": error.errno}
        return {"result": names.get("result")}
"""


async def ask(status: pb.ReplicaStatus, code: str, *, within: float = 60) -> Any:
    """Run `code` inside; return its result, or the OSError's number as a negative."""
    answer = await call(status, code.encode(), within=within)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    found = json.loads(body)
    return -found["errno"] if "errno" in found else found["result"]


class Served:
    """`Neighbour` for tests that are coroutines."""

    def __init__(self, neighbour: Neighbour) -> None:
        self._neighbour = neighbour

    async def is_served(self, more: int = 20) -> None:
        """Return when so many more calls have been answered from now on."""
        await asyncio.to_thread(self._neighbour.is_served, more)


@asynccontextmanager
async def neighbour_of(
    spawner: Spawner, client: Client, code: str = CODE, env: Mapping[str, str] | None = None
) -> AsyncIterator[Served]:
    """Start another tenant's app and call it all the while."""
    status = await client.ready(
        spawner.app(code),
        organization_name="umbrella",
        organization_id="org-2",
        env=dict(env or {}),
    )
    path = status.unix_path
    calling = Neighbour(lambda body: post(path, body)).called()
    neighbour = await asyncio.to_thread(calling.__enter__)
    try:
        yield Served(neighbour)
    except BaseException as error:
        await asyncio.to_thread(calling.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        await asyncio.to_thread(calling.__exit__, None, None, None)
    finally:
        await client.stop(status.replica_id)


def post(path: str, body: bytes) -> bytes:
    """POST to a replica's socket; return the body, or the whole answer where it is no 200."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(30)
        wire.connect(path)
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        wire.sendall(head.encode() + b"connection: close\r\n\r\n" + body)
        answer = b""
        while data := wire.recv(65536):
            answer += data
    start, _, found = answer.partition(b"\r\n\r\n")
    return found if start.startswith(b"HTTP/1.1 200 ") else answer


@pytest.fixture(scope="module", params=["pool", "bwrap"])
def spawner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spawner]:
    """A spawner on each of the two start paths."""
    env = {**WAYS[request.param], "IGNITE__BUILD__ARTIFACT_BYTES": str(64 * 1024 * 1024)}
    made = Spawner(tmp_path_factory.mktemp("spawner") / "data", env=env)
    made.start()
    yield made
    made.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The control groups of one replica; looked up while it runs."""

    folders: Mapping[str, Path]

    def read(self, controller: str, *names: str) -> int:
        """Return the number in the first of these files that is there, 0 for none."""
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                return int((self.folders[controller] / name).read_text())
        return 0

    def are_gone(self) -> bool:
        """Return whether nothing of them is left."""
        return not any(folder.exists() for folder in self.folders.values())


def groups_of(status: pb.ReplicaStatus) -> Groups:
    """Return the control groups of a running replica, whichever versions the machine has."""
    places: dict[str, str] = {}
    for line in Path(f"/proc/{status.pid}/cgroup").read_text().splitlines():
        _, names, place = line.split(":", 2)
        places.update(dict.fromkeys(names.split(","), place))
    return Groups(
        folders={
            name: found.root / places.get(name, places.get("", "")).lstrip("/")
            for name, found in find_controllers().items()
        }
    )
