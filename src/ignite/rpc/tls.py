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
    return _credentials(_Files(certificate, key, None))


def mutual_tls(certificate: Path, key: Path, client_ca: Path) -> grpc.ServerCredentials:
    """Return TLS that asks every client for a certificate of `client_ca`."""
    return _credentials(_Files(certificate, key, client_ca))


class _Files:
    """Gives the certificates to gRPC when they have changed. Called in threads of gRPC's own."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._stamps: _Stamps = ()
        self._refused: _Stamps = ()

    @property
    def has_client_ca(self) -> bool:
        """Tell whether clients must have a certificate."""
        return self._client_ca is not None

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
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what has changed, None to go on with what there is."""
        try:
            if (found := self._look()) in (self._stamps, self._refused):
                return None
        except OSError:
            return None  # being written
        try:
            loaded = self.load()
        except OSError:
            return None  # no descriptor left, say: the next handshake tries again
        except (ValueError, TypeError) as error:
            # Said once, not at every handshake.
            self._refused = found
            logger.warning("certificate not taken yet", extra={"error": str(error)})
            return None
        logger.info("certificate renewed", extra={"file": self._certificate.name})
        return loaded

    def _look(self) -> _Stamps:
        paths = (self._certificate, self._key, self._client_ca)
        found = (path.stat() for path in paths if path is not None)
        return tuple((about.st_ino, about.st_ctime_ns, about.st_size) for about in found)


def _credentials(files: _Files) -> grpc.ServerCredentials:
    return grpc.dynamic_ssl_server_credentials(
        files.load(),
        files.renewed,  # type: ignore[arg-type]  # None is "no change", says its documentation
        require_client_authentication=files.has_client_ca,
    )


def _check(certificate: bytes, key: bytes) -> None:
    first = x509.load_pem_x509_certificates(certificate)[0]
    private = serialization.load_pem_private_key(key, password=None)
    if private.public_key() != first.public_key():
        raise ValueError("the key is not the certificate's")
