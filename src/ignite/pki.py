"""The certificates of the admin listener: a CA of our own, one server, one client.

Made at the first start and made anew where one is missing, broken or does not fit the CA. One of
which a third of its life is left is renewed: at a start, and while the server runs
(`supervisor.certificate`). A renewed certificate keeps its key and its name, so all fit each other
at every moment: the certificate its key, of which one file alone changes, and both certificates of
the CA, the old and the new, whatever either has signed.

The CA's key stays with whoever made it; the other files get the owner given.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ignite.privileges import Owner, write_private

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)
# Clocks of other machines may be behind ours.
BACKDATE = timedelta(hours=1)
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Pki:
    """The files, all PEM."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The certificate to trust."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Signs the others; needed at renewal alone."""
        return self.folder / "ca-key.pem"

    @property
    def server(self) -> Path:
        """The listener's certificate."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """Its key."""
        return self.folder / "server-key.pem"

    @property
    def client(self) -> Path:
        """The operator's certificate."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """Its key."""
        return self.folder / "client-key.pem"


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Leaf:
    name: str
    purpose: x509.ObjectIdentifier
    names: Sequence[str] = ()


def ensure_pki(
    folder: Path,
    *,
    now: datetime,
    names: Sequence[str] = (),
    owner: Owner | None = None,
    leaf_life: timedelta = LEAF_LIFE,
) -> Pki:
    """Make or renew what is needed and return the files.

    `names` are further host names and addresses of the server. `owner` gets all but the CA's
    key. A running server may read the files meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    files = Pki(folder)
    authority = _read(files.ca, files.ca_key)
    if authority is None or _is_due(authority.certificate, now):
        authority = _make_ca(now, authority.key if authority else _new_key())
        _write(authority, files.ca, files.ca_key, owner, key_owner=None)
    wanted = tuple(dict.fromkeys((*LOCAL_NAMES, *names)))
    server = _read(files.server, files.server_key)
    if not _is_good(server, authority, now) or _names(server) != set(wanted):
        leaf = _Leaf("ignite-admin", ExtendedKeyUsageOID.SERVER_AUTH, wanted)
        made = _make_leaf(authority, leaf, server, now, leaf_life)
        _write(made, files.server, files.server_key, owner, key_owner=owner)
    client = _read(files.client, files.client_key)
    if not _is_good(client, authority, now):
        leaf = _Leaf("ignite-operator", ExtendedKeyUsageOID.CLIENT_AUTH)
        made = _make_leaf(authority, leaf, client, now, leaf_life)
        _write(made, files.client, files.client_key, owner, key_owner=owner)
    if owner is not None:
        _give(files, owner)
    return files


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _make_ca(now: datetime, key: ec.EllipticCurvePrivateKey) -> _Pair:
    name = _name("ignite admin CA")
    builder = (
        _builder(name, name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_leaf(
    authority: _Pair, leaf: _Leaf, before: _Pair | None, now: datetime, life: timedelta
) -> _Pair:
    key = before.key if before else _new_key()
    issuer = authority.certificate.subject
    builder = (
        _builder(_name(leaf.name), issuer, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([leaf.purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if leaf.names:
        alternatives = x509.SubjectAlternativeName([_alternative(one) for one in leaf.names])
        builder = builder.add_extension(alternatives, critical=False)
    return _Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(pair: _Pair | None) -> set[str]:
    if pair is None:
        return set()
    try:
        found = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(one.value) for one in found.value}


def _is_good(pair: _Pair | None, authority: _Pair, now: datetime) -> bool:
    if pair is None or _is_due(pair.certificate, now):
        return False
    try:
        pair.certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Tell whether a third of its life is left, or less."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE
    return certificate.not_valid_after_utc - life / 3 <= now


def _read(certificate: Path, key: Path) -> _Pair | None:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        # Any other trouble of the disk is no reason to make others in their place.
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    if loaded.public_key() != private.public_key():
        return None
    return _Pair(loaded, private)


def _write(
    pair: _Pair,
    certificate: Path,
    key: Path,
    owner: Owner | None,
    *,
    key_owner: Owner | None,
) -> None:
    private = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # The key first: a certificate without its key is found out and both are made anew.
    if not _holds(key, private):
        write_private(key, private, key_owner)
    write_private(certificate, pair.certificate.public_bytes(serialization.Encoding.PEM), owner)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _give(files: Pki, owner: Owner) -> None:
    """Hand over what was made when there was no owner. The folder is theirs: follow no link."""
    uid, gid = owner.uid, owner.gid
    os.chown(files.folder, uid, gid, follow_symlinks=False)
    for path in (files.ca, files.server, files.server_key, files.client, files.client_key):
        about = path.lstat()
        if about.st_uid != uid and about.st_nlink == 1:
            os.chown(path, uid, gid, follow_symlinks=False)
