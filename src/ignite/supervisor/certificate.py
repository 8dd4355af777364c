"""Certificates, kept true while the server runs: the operator's own, and those of our own CA.

The operator's private key usually belongs to root and lies in a folder that is closed to everybody
else. The supervisor reads it while it is root, sees that it fits, and leaves a copy of it, 0600,
beside the sockets: memory on most systems, and gone with the machine. It looks again every minute,
so that a certificate that was renewed there is served without a restart.

A copy is a certificate and its key, which must change at once. So they lie in a folder of their
own, and what the server reads are links through one link to it, which is replaced in one step:
what Kubernetes does for mounted secrets, and what Envoy watches for. The folder around is the
supervisor's, in one of the server's user: it is opened, looked at and used by descriptor.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ignite.layout import Layout
from ignite.pki import LEAF_LIFE, ensure_pki
from ignite.privileges import Owner, make_folder, write_private
from ignite.settings import ServerSettings, SettingsError

logger = logging.getLogger(__name__)

_CERTIFICATE = "IGNITE__SERVER__TLS_CERT_FILE"
_KEY = "IGNITE__SERVER__TLS_KEY_FILE"
_FOLDER = "tls"
_NAMES = ("certificate.pem", "key.pem")
_DATA = "..data"
_COPY = "..copy-"
_LOOK_SECS = 60.0


def place_certificate(
    settings: ServerSettings, layout: Layout, owner: Owner | None
) -> ServerSettings:
    """Return the settings with the copies' paths; raises SettingsError naming the variable."""
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if certificate is None or key is None:
        return settings
    contents = _read(certificate, _CERTIFICATE), _read(key, _KEY)
    folder = layout.run / _FOLDER
    placed = tuple(folder / name for name in _NAMES)
    if not _holds(placed, contents):
        _place(folder, contents, owner)
    return settings.model_copy(update={"tls_cert_file": placed[0], "tls_key_file": placed[1]})


class Certificates:
    """Renews our own certificates before they end, and follows the operator's. A Component."""

    name = "certificates"

    def __init__(
        self,
        settings: ServerSettings,
        layout: Layout,
        owner: Owner | None,
        *,
        leaf_life: timedelta = LEAF_LIFE,
        look_secs: float = _LOOK_SECS,
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._owner = owner
        self._leaf_life = leaf_life
        self._look_secs = look_secs

    async def run(self, ready: Callable[[], None]) -> None:
        """Look at them from time to time until cancelled; a failure leaves them as they are."""
        ready()
        while True:
            await asyncio.sleep(self._look_secs)
            for step in (self.renew, self._follow):
                try:
                    await asyncio.to_thread(step)
                except SettingsError as error:
                    logger.warning("certificate not taken yet", extra={"error": str(error)})
                except Exception:  # a full disk must not take the server down
                    logger.exception("certificates cannot be renewed")

    def renew(self) -> None:
        """Make what is missing or near its end."""
        ensure_pki(
            self._layout.pki,
            now=datetime.now(UTC),
            owner=self._owner,
            leaf_life=self._leaf_life,
        )

    def _follow(self) -> None:
        place_certificate(self._settings, self._layout, self._owner)


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read {path}: {error.strerror}") from None


def _holds(placed: tuple[Path, ...], contents: tuple[bytes, ...]) -> bool:
    try:
        return tuple(path.read_bytes() for path in placed) == contents
    except OSError:
        return False


def _place(folder: Path, contents: tuple[bytes, bytes], owner: Owner | None) -> None:
    """Put a certificate and its key in place, both at once; raises SettingsError."""
    make_folder(folder, None, 0o755)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise SettingsError(f"{_CERTIFICATE}: {folder} was made by somebody else")
        _replace(Path(f"/proc/self/fd/{descriptor}"), contents, owner)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless an earlier certificate is in force
        raise
    finally:
        os.close(descriptor)


def _replace(folder: Path, contents: tuple[bytes, bytes], owner: Owner | None) -> None:
    fresh = folder / f"{_COPY}{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o755)
    try:
        fresh.chmod(0o755)
        for name, content in zip(_NAMES, contents, strict=True):
            write_private(fresh / name, content, owner)
        # What was read, and not what lies there by now.
        _check(*(fresh / name for name in _NAMES))
        link = folder / f"{_DATA}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(fresh.name)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    link.replace(folder / _DATA)
    for name in _NAMES:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")
    for old in folder.glob(f"{_COPY}*"):
        if old.name != fresh.name:
            shutil.rmtree(old, ignore_errors=True)


def _check(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password: a key that needs one must fail here and not ask the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not a PEM"
        words = str(reason).lower().replace("_", " ")
        raise SettingsError(
            f"{_CERTIFICATE} and {_KEY} are not a certificate chain with its key, unencrypted, "
            f"as PEM ({words})"
        ) from None
