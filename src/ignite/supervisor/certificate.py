"""The operator's certificate, put where the server's own user can read it.

A private key usually belongs to root and lies in a folder that is closed to everybody else. The
supervisor reads it while it is root, sees that it fits, and leaves a copy of it, 0600, beside the
sockets: memory on most systems, and gone with the machine.
"""

import ssl
from pathlib import Path

from ignite.layout import Layout
from ignite.privileges import Owner, write_private
from ignite.settings import ServerSettings, SettingsError

_CERTIFICATE = "IGNITE__SERVER__TLS_CERT_FILE"
_KEY = "IGNITE__SERVER__TLS_KEY_FILE"


def place_certificate(
    settings: ServerSettings, layout: Layout, owner: Owner | None
) -> ServerSettings:
    """Return the settings with the copies' paths; raises SettingsError naming the variable."""
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if certificate is None or key is None:
        return settings
    contents = _read(certificate, _CERTIFICATE), _read(key, _KEY)
    _check(certificate, key)
    placed = layout.run / "tls-certificate.pem", layout.run / "tls-key.pem"
    for path, content in zip(placed, contents, strict=True):
        write_private(path, content, owner)
    return settings.model_copy(update={"tls_cert_file": placed[0], "tls_key_file": placed[1]})


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read {path}: {error.strerror}") from None


def _check(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password: a key that needs one must fail here and not ask the terminal.
        context.load_cert_chain(certificate.expanduser(), key.expanduser(), password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not a PEM"
        words = str(reason).lower().replace("_", " ")
        raise SettingsError(
            f"{_CERTIFICATE} and {_KEY} are not a certificate chain with its key, unencrypted, "
            f"as PEM ({words})"
        ) from None
