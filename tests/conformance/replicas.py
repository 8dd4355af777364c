"""A replica as a plain process: no sandbox, the same contract."""

import contextlib
import http.client
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from ignite.sandbox.interpreters import Interpreter, python_interpreters
from ignite.settings import RuntimeSettings

SHIM = Path(__file__).parents[2] / "src/ignite/runtimes/python/shim.py"
START_SECS = 20.0
WAIT_SECS = 20.0

Files = Mapping[str, str]


def pythons() -> list[Interpreter]:
    """Return the oldest, the usual and the newest interpreter of this machine."""
    found = python_interpreters(RuntimeSettings())
    names = list(found)
    wanted = {names[0], names[-1], "3.11"}
    return [found[name] for name in names if name in wanted]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_SECS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class Replica:
    """A started replica. `lines` are what it wrote, in order."""

    process: "subprocess.Popen[bytes]"
    socket_path: str
    folder: Path
    lines: list[str] = field(default_factory=list)
    _fresh: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)

    def watch(self) -> Self:
        """Collect what the process writes."""
        assert self.process.stdout is not None
        threading.Thread(target=self._collect, args=(self.process.stdout,), daemon=True).start()
        return self

    def _collect(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                self.lines.append(line)
                self._fresh.put(line)
        self._fresh.put(None)

    def wait_ready(self) -> None:
        """Wait until the replica can be connected to."""
        end = time.monotonic() + START_SECS
        while not os.path.exists(self.socket_path):
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end, "the replica did not get ready"
            time.sleep(0.002)

    def wait_line(self, text: str) -> str:
        """Return the next line that has `text` in it."""
        end = time.monotonic() + WAIT_SECS
        while True:
            line = self._fresh.get(timeout=max(0.0, end - time.monotonic()))
            if line is None:
                raise AssertionError(f"ended without a line {text!r}: {self.lines}")
            if text in line:
                return line

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(WAIT_SECS)
        client.connect(self.socket_path)
        return client

    def request(
        self,
        method: str = "POST",
        path: str = "/",
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request over a connection of its own."""
        with contextlib.closing(UnixConnection(self.socket_path)) as connection:
            connection.request(
                method, path, body=body, headers=dict(headers or {}), encode_chunked=True
            )
            return read_answer(connection)

    def wait_status(
        self, wanted: int, method: str = "POST", path: str = "/", body: bytes = b""
    ) -> None:
        """Ask until the answer has the status."""
        end = time.monotonic() + WAIT_SECS
        while (found := self.request(method, path, body).status) != wanted:
            assert time.monotonic() < end, f"still {found}, not {wanted}"

    def call(self, body: bytes = b"") -> bytes:
        """Return the body of a good answer."""
        answer = self.request(body=body)
        assert answer.status == 200, answer
        return answer.body

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(timeout=WAIT_SECS)


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    """Read the answer to the request just sent."""
    response = connection.getresponse()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


class Replicas:
    """Starts replicas and ends them all."""

    def __init__(self, python: Interpreter | None = None) -> None:
        self._python = python or next(iter(pythons()))
        self._started: list[Replica] = []

    def spawn(self, files: Files | str, env: Mapping[str, str] | None = None) -> Replica:
        """Start a replica of Python code without waiting for it."""
        # A short name: a unix socket's path has 107 bytes at most.
        folder = Path(tempfile.mkdtemp(prefix="igc"))
        app = folder / "app"
        app.mkdir()
        for name, text in ({"handler.py": files} if isinstance(files, str) else files).items():
            (app / name).parent.mkdir(parents=True, exist_ok=True)
            (app / name).write_text(text)
        command: Sequence[str] = [str(self._python.path), "-I", "-B", str(SHIM)]
        library = {"LD_LIBRARY_PATH": str(self._python.prefix / "lib")}
        process = subprocess.Popen(
            command,
            env={
                **(library if self._python.needs_library_path else {}),
                "PATH": os.defpath,
                "IGNITE_SOCKET": str(folder / "s"),
                "IGNITE_APP_DIR": str(app),
                "FOLDER": str(folder),
                **(env or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        replica = Replica(process, str(folder / "s"), folder).watch()
        self._started.append(replica)
        return replica

    def start(self, files: Files | str, env: Mapping[str, str] | None = None) -> Replica:
        """Start a replica and wait until it can be connected to."""
        replica = self.spawn(files, env)
        replica.wait_ready()
        return replica

    def close(self) -> None:
        """End every replica and remove its folder."""
        for replica in self._started:
            replica.process.kill()
            replica.process.wait(timeout=WAIT_SECS)
            while replica._fresh.get(timeout=WAIT_SECS) is not None:
                pass
            shutil.rmtree(replica.folder)
