"""A server with a certificate of its operator's, whose key root alone may read."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from tests.e2e.conftest import HELLO, folder
from tests.e2e.server import Server, read_answer

from ignite.pki import ensure_pki
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[Server, Path]]:
    """A server with a certificate, and the authority to believe."""
    with folder() as home:
        pki = home / "closed"
        pki.mkdir(mode=0o700)
        ensure_pki(pki, now=datetime.now(UTC), owner=None)
        files = {
            "IGNITE__SERVER__TLS_CERT_FILE": str(pki / "server.pem"),
            "IGNITE__SERVER__TLS_KEY_FILE": str(pki / "server-key.pem"),
        }
        server = Server(home / "data", files)
        try:
            server.start()
            yield server, pki / "ca.pem"
        finally:
            if server.is_running():
                server.stop()


def test_grpc_speaks_tls_alone(secured: tuple[Server, Path]) -> None:
    server, ca = secured
    request = pb.ListAppsRequest(organization_name=server.org)
    trusted = grpc.ssl_channel_credentials(ca.read_bytes())
    with grpc.secure_channel(server.connection["grpc"], trusted) as channel:
        ComputeServiceStub(channel).ListApps(request, metadata=server.metadata, timeout=20)
    with server.compute() as plain, pytest.raises(grpc.RpcError) as caught:
        plain.ListApps(request, metadata=server.metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_http_offers_both_protocols(secured: tuple[Server, Path], protocol: str) -> None:
    server, ca = secured
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols([protocol])
    assert server.connection["http"].startswith("https://")
    with context.wrap_socket(
        socket.create_connection(server.http_address, timeout=20),
        server_hostname=server.http_address[0],
    ) as wire:
        assert wire.selected_alpn_protocol() == protocol
        if protocol == "http/1.1":
            wire.sendall(
                b"GET /v1/ignite/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            assert read_answer(wire).status == 200


def test_command_line_deploys_and_invokes(
    secured: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ca = secured
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    assert server.deploy("hello", HELLO).startswith("https://hello-")
    assert '"hello": "tls"' in server.invoke("hello", "tls")


def test_command_line_says_that_it_does_not_trust_the_certificate(
    secured: tuple[Server, Path],
) -> None:
    server, _ = secured
    for command in (("app", "list"), ("login", server.connection["client_id"], "x")):
        done = server.cli(*command)
        assert "is not trusted" in done.stderr
        assert done.returncode == 9
