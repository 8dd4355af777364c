"""Credentials of gRPC listeners from PEM files."""

from pathlib import Path

import grpc


def server_tls(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return plain server TLS."""
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


def mutual_tls(certificate: Path, key: Path, client_ca: Path) -> grpc.ServerCredentials:
    """Return TLS that asks every client for a certificate of `client_ca`."""
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=client_ca.read_bytes(),
        require_client_auth=True,
    )
