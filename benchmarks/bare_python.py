"""The least that Python can do: an interpreter with a small asyncio server, in a CPU quota."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ignite.sandbox.cgroups import ControlGroup, ControlGroups

START_SECS = 60.0
POLL_SECS = 0.001

_SERVER = """
import asyncio, sys
if len(sys.argv) > 2:
    sys.path.insert(0, sys.argv[2])
    import handler

class Hello(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nhello")

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Hello, sys.argv[1])
    await server.serve_forever()

asyncio.run(main())
"""
# Joins the group as the launcher of replicas does, so the quota holds from the first instruction.
_JOIN = (
    'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
)


class BarePython:
    """Starts bare interpreters under the quota of a replica."""

    def __init__(self, interpreter: str, millicores: int, group: ControlGroup | None) -> None:
        self._interpreter = interpreter
        self._group = group
        self.has_quota = group is not None
        self.cpu_us: list[int] = []
        if group is not None:
            group.limit_cpu(millicores)

    def cold_starts(self, count: int, *, app: Path | None = None) -> list[float]:
        """Start `count` at once; return the seconds from spawn to the first byte of each.

        Each imports the `handler` of `app` first, an artifact, where there is one.
        """
        with tempfile.TemporaryDirectory() as folder:
            paths = [f"{folder}/{number}" for number in range(count)]
            began = time.perf_counter()
            processes = [self._spawn(path, app) for path in paths]
            try:
                return [_first_byte(path) - began for path in paths]
            finally:
                for process in processes:
                    process.kill()
                for process in processes:
                    _, status, used = os.wait4(process.pid, 0)
                    process.returncode = os.waitstatus_to_exitcode(status)
                    self.cpu_us.append(int((used.ru_utime + used.ru_stime) * 1e6))

    def _spawn(self, path: str, app: Path | None) -> "subprocess.Popen[bytes]":
        imports = [] if app is None else [str(app)]
        folders = [str(folder) for folder in self._group.folders] if self._group else []
        return subprocess.Popen(
            [
                *("/bin/sh", "-c", _JOIN, "sh", *folders, "--"),
                *(self._interpreter, "-I", "-B", "-c", _SERVER, path, *imports),
            ],
            stdin=subprocess.DEVNULL,
        )


@contextmanager
def bare_python(interpreter: str, millicores: int) -> Iterator[BarePython]:
    """Give a starter whose control group goes with it; without one where the machine has none."""
    if not Path(interpreter).exists():
        raise RuntimeError(f"the replica's interpreter {interpreter} is not seen from outside")
    groups = ControlGroups(f"bench-{os.getpid()}")
    usable = all(state.hierarchy for state in groups.states if state.name == "cpu")
    group = groups.create("bare") if usable else None
    try:
        yield BarePython(interpreter, millicores, group)
    finally:
        if group is not None:
            group.remove()
        groups.close()


def _first_byte(path: str) -> float:
    ends = time.perf_counter() + START_SECS
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as wire:
            wire.connect(path)
            wire.sendall(b"GET / HTTP/1.1\r\nhost: bare\r\n\r\n")
            if wire.recv(1):
                return time.perf_counter()
        if time.perf_counter() > ends:
            raise RuntimeError("the bare interpreter does not serve")
        time.sleep(POLL_SECS)
