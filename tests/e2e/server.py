"""The whole server as a person starts it, and the ways to talk to it.

Nothing here knows the server's insides: a process, a data folder, `connection.json`, and from there
gRPC, HTTP on a socket and the command line.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub
from ignite.v1.ignite_secret_pb2_grpc import SecretServiceStub

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
READY_SECS = 120.0
STOP_SECS = 60.0
FREE_PORTS = {
    "IGNITE_API_LISTEN_ADDR": "127.0.0.1:0",
    "IGNITE_ADMIN_LISTEN_ADDR": "127.0.0.1:0",
    "IGNITE_HTTP_LISTEN_ADDR": "127.0.0.1:0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, as it stood on the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    trailers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Server:
    """`ignite serve` on one data folder; may be killed and started again."""

    def __init__(self, data: Path, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        self._more = dict(environment or {})
        self._log = data.parent / f"{data.name}.out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the server and of the command line beside it."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("IGNITE", "DODIL"))
        }
        return {
            **kept,
            **FREE_PORTS,
            "IGNITE_DATA_DIR": str(self.data),
            "IGNITE_CONFIG_DIR": str(self.data.parent / "no-config"),
            **self._more,
        }

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until a client could use it."""
        self.__dict__.pop("connection", None)
        before = self._stamp()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ignite", "serve", "--data-dir", str(self.data)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data.parent,
            )
        ends = time.monotonic() + READY_SECS
        while self._stamp() in (None, before):
            code = self._process.poll()
            assert code is None, f"the server ended with {code}:\n{self.words()}"
            assert time.monotonic() < ends, f"not ready in {READY_SECS} s:\n{self.words()}"
            time.sleep(0.05)

    def words(self) -> str:
        """Return the end of what the server printed, for the message of a failing test."""
        logs = [self._log, *sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in logs
            if path.exists()
        )

    def stop(self) -> int:
        """Ask it to stop, as a service manager does; return the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """End it as a power cut does: the supervisor first, so that nothing is tidied up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def is_running(self) -> bool:
        """Return whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    @cached_property
    def connection(self) -> dict[str, str]:
        """What the server left for clients when it became ready."""
        found: dict[str, str] = json.loads((self.data / "connection.json").read_text())
        return found

    @property
    def org(self) -> str:
        """The development organisation."""
        return self.connection["org"]

    @property
    def token(self) -> str:
        """A token that is good now: the server renews the file."""
        found: dict[str, str] = json.loads((self.data / "connection.json").read_text())
        return found["token"]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The bearer, for a stub's call."""
        return (("authorization", f"Bearer {self.token}"),)

    @property
    def http_address(self) -> tuple[str, int]:
        """Where HTTP is served."""
        host, _, port = self.connection["http"].rpartition("://")[2].rpartition(":")
        return host, int(port)

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A gRPC channel to the public listener."""
        options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        with grpc.insecure_channel(self.connection["grpc"], options=options) as channel:
            yield channel

    @contextmanager
    def admin_channel(self) -> Iterator[grpc.Channel]:
        """A channel to the admin listener, as the operator."""
        pki = self.data / "pki"
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(pki / "ca.pem").read_bytes(),
            private_key=(pki / "client-key.pem").read_bytes(),
            certificate_chain=(pki / "client.pem").read_bytes(),
        )
        with grpc.secure_channel(self.connection["admin"], credentials) as channel:
            yield channel

    @contextmanager
    def compute(self) -> Iterator[ComputeServiceStub]:
        """ComputeService."""
        with self.channel() as channel:
            yield ComputeServiceStub(channel)

    @contextmanager
    def secrets(self) -> Iterator[SecretServiceStub]:
        """SecretService."""
        with self.channel() as channel:
            yield SecretServiceStub(channel)

    def host_of(self, app: str, org: str | None = None) -> str:
        """Return an app's host name."""
        return f"{app}-{org or self.org}.{self.connection['base_domain']}"

    def http(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        host: str | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> Answer:
        """Send one request over a socket of its own. `token` "" is the server's, None is none."""
        data = body if isinstance(body, bytes) else b""
        sent = {"host": host or "{}:{}".format(*self.http_address), "connection": "close"}
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            sent["content-type"] = "application/json"
        if token is not None:
            sent["authorization"] = f"Bearer {token or self.token}"
        if data or method in ("POST", "PUT", "PATCH"):
            sent["content-length"] = str(len(data))
        sent |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        with socket.create_connection(self.http_address, timeout=30) as wire:
            wire.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
            return read_answer(wire)

    def cli(
        self, *arguments: str, cwd: Path | None = None, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line beside the server."""
        done = subprocess.run(
            [sys.executable, "-m", "ignite", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            cwd=cwd or self.data.parent,
            timeout=90,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def deploy(self, app: str, files: Mapping[str, str], *more: str) -> str:
        """Deploy an app from these files and return its URL."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            done = self.cli("app", "deploy", app, "--code", folder, *more)
        assert done.returncode == 0, f"{done.stderr}\n{self.words()}"
        return done.stdout.strip()

    def invoke(self, app: str, payload: str = "") -> str:
        """Call an app by the command line and return its body."""
        done = self.cli("invoke", app, "--payload", payload)
        assert done.returncode == 0, f"{done.stderr}\n{self.words()}"
        return done.stdout

    def _stamp(self) -> int | None:
        try:
            return (self.data / "connection.json").stat().st_ino
        except FileNotFoundError:
            return None


def read_answer(wire: socket.socket) -> Answer:
    """Read one HTTP/1.1 answer to its end, with the trailers that most clients throw away."""
    with wire.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = _fields(stream)
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(stream.readline().partition(b";")[0], 16):
                body += stream.read(size)
                assert stream.readline() == b"\r\n"
            return Answer(status=status, headers=headers, body=body, trailers=_fields(stream))
        length = headers.get("content-length")
        body = stream.read() if length is None else stream.read(int(length))
        return Answer(status=status, headers=headers, body=body)


def _fields(stream: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        found[name.lower()] = value.strip()
    return found


def processes_of(data: Path) -> Sequence[int]:
    """Return the processes whose command line or environment names this data folder."""
    found = []
    needle = str(data).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if needle in about:
            found.append(int(entry.name))
    return found
