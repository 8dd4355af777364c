"""The public listener with a certificate, and what a client sees while keys are missing."""

import asyncio
import datetime
import ipaddress
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.envoy import needs_envoy, running_rig

from ignite.layout import Layout
from ignite.pki import ensure_pki
from ignite.settings import ServerSettings
from ignite.supervisor.certificate import place_certificate

pytestmark = needs_envoy


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate of localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "tls.crt", folder / "tls.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


async def test_https_serves_apps_and_both_protocols(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    files = {"tls_cert_file": str(cert_file), "tls_key_file": str(key_file)}
    async with running_rig(server=files) as rig:
        rig.tls = ssl.create_default_context(cafile=str(cert_file))
        replica = await rig.replica()
        await rig.controllers.settle(rig.route("safe", replica))
        assert (await rig.get(rig.host("safe"))).status == 200
        assert replica.seen[0].header("x-forwarded-proto") == "https"
        for protocol in ("h2", "http/1.1"):
            rig.tls.set_alpn_protocols([protocol])
            _, writer = await rig.connect()
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == protocol
            writer.close()
        old = ssl.create_default_context(cafile=str(cert_file))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        rig.tls = old
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await rig.connect()


async def test_a_renewed_certificate_is_served_and_connections_stay(tmp_path: Path) -> None:
    class Here(Layout):
        @property
        def run(self) -> Path:
            return tmp_path / "run"

    (tmp_path / "run").mkdir()
    now = datetime.datetime.now(datetime.UTC)
    renewed = [ensure_pki(tmp_path / name, now=now) for name in ("first", "second")]

    def place(number: int) -> ServerSettings:
        pki = renewed[number]
        settings = ServerSettings(tls_cert_file=pki.server, tls_key_file=pki.server_key)
        return place_certificate(settings, Here(tmp_path / "data"), None)

    placed = place(0)
    files = {"tls_cert_file": str(placed.tls_cert_file), "tls_key_file": str(placed.tls_key_file)}
    async with running_rig(server=files) as rig:
        roots = "".join(pki.ca.read_text() for pki in renewed)
        rig.tls = ssl.create_default_context(cadata=roots)

        async def shown() -> bytes:
            _, writer = await rig.connect()
            found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return found

        await rig.controllers.settle(rig.route("safe", await rig.replica()))
        reader, writer = await rig.connect()
        for number in (0, 1, 0):
            place(number)
            wanted = ssl.PEM_cert_to_DER_cert(renewed[number].server.read_text())
            async with asyncio.timeout(20):
                while await shown() != wanted:
                    assert (await rig.get(rig.host("safe"))).status == 200
            # The connection of before the renewals still serves.
            writer.write(f"GET / HTTP/1.1\r\nhost: {rig.host('safe')}\r\n\r\n".encode())
            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
            assert b" 401 " in head.splitlines()[0]
        writer.close()


async def test_without_keys_a_good_token_is_not_called_bad() -> None:
    async with running_rig(has_edge=False) as rig:
        await rig.controllers.settle(rig.route("nokeys", await rig.replica()))
        got = await rig.get(rig.host("nokeys"))
        assert got.status == 503
        assert got.json()["details"][0]["reason"] == "KeysUnavailable"
        assert (await rig.get(rig.host("nokeys"), token=None)).status == 401


async def test_connections_beyond_the_bound_are_refused() -> None:
    async with running_rig(gateway={"max_connections": 3}) as rig:
        open_ones = [await rig.connect() for _ in range(3)]
        async with asyncio.timeout(5):
            reader, writer = await rig.connect()
            assert await reader.read() == b""
        for _, one in [*open_ones, (reader, writer)]:
            one.close()
