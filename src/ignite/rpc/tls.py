"""Credentials of gRPC listeners from PEM files, which may be renewed while the listener serves.

gRPC asks at every handshake. Files that did not change cost three looks at their times; those that
do not fit each other, since somebody is just writing them, leave the earlier ones in force.
"""

import logging
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

logger = logging.getLogger(__name__)

_Stamps = tuple[tuple[int, int, int], ...]


def server_tls(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return plain server TLS."""
    files = _Files(certificate, key, None)
    return grpc.dynamic_ssl_server_credentials(files.load(), files.renewed)


def mutual_tls(certificate: Path, key: Path, client_ca: Path) -> grpc.ServerCredentials:
    """Return TLS that asks every client for a certificate of `client_ca`."""
    files = _Files(certificate, key, client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.load(), files.renewed, require_client_authentication=True
    )


class _Files:
    """Gives the certificates to gRPC when they have changed. Called in threads of gRPC's own."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._stamps: _Stamps = ()
        self._loaded: grpc.ServerCertificateConfiguration

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read the files; raises OSError, or ValueError for those that do not fit."""
        stamps = self._look()
        certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
        _check(certificate, key)
        authority = self._client_ca.read_bytes() if self._client_ca else None
        if authority is not None:
            x509.load_pem_x509_certificates(authority)
        # Looked at before they were read: what changes meanwhile is read once more.
        self._stamps = stamps
        self._loaded = grpc.ssl_server_certificate_configuration([(key, certificate)], authority)
        return self._loaded

    def renewed(self) -> grpc.ServerCertificateConfiguration:
        """Return what has changed, or else what there is."""
        try:
            if self._look() != self._stamps:
                self.load()
                logger.info("certificate renewed", extra={"file": self._certificate.name})
        except (OSError, ValueError, TypeError) as error:
            logger.warning("certificate not taken yet", extra={"error": str(error)})
        return self._loaded

    def _look(self) -> _Stamps:
        paths = (self._certificate, self._key, self._client_ca)
        found = (path.stat() for path in paths if path is not None)
        return tuple((about.st_ino, about.st_mtime_ns, about.st_size) for about in found)


def _check(certificate: bytes, key: bytes) -> None:
    first = x509.load_pem_x509_certificates(certificate)[0]
    private = serialization.load_pem_private_key(key, password=None)
    if private.public_key() != first.public_key():
        raise ValueError("the key is not the certificate's")
