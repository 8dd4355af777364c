"""Listeners serve on while their certificates are renewed: no call fails, nothing is restarted."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ignite.layout import Layout
from ignite.pki import Pki, ensure_pki
from ignite.rpc.server import Bind, grpc_component
from ignite.rpc.tls import mutual_tls, server_tls
from ignite.settings import ServerSettings
from ignite.supervisor.certificate import Certificates, place_certificate

LIFE = timedelta(seconds=10)


@asynccontextmanager
async def listening(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    """Serve health checks; give the port."""
    bound: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
    server = grpc_component(
        name="test",
        binds=[Bind(address="127.0.0.1:0", credentials=credentials)],
        services=[],
        auth=None,
        on_bound=bound.set_result,
    )
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Event()
        serving = group.create_task(server.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        yield next(iter((await bound).values()))
        serving.cancel()


@asynccontextmanager
async def running(component: Certificates) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(component.run(lambda: None))
        yield
        task.cancel()


async def check(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def served(port: int, ca: Path, pki: Pki | None = None) -> x509.Certificate:
    """Return the certificate that a listener shows now."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    if pki is not None:
        context.load_cert_chain(pki.client, pki.client_key)
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname="localhost"
    ) as wire:
        shown = wire.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@dataclass
class Place:
    layout: Layout
    tls: ServerSettings

    def certificates(self, **more: Any) -> Certificates:
        return Certificates(self.tls, self.layout, None, look_secs=0.1, **more)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    class Here(Layout):
        @property
        def run(self) -> Path:
            return tmp_path / "run"

    layout = Here(tmp_path / "data")
    layout.data.mkdir()
    layout.run.mkdir()
    return Place(layout, ServerSettings())


async def until(is_done: Callable[[], Awaitable[bool]]) -> int:
    """Do something again and again until it says so, a minute at most; return how often."""
    times = 0
    async with asyncio.timeout(60):
        while not await is_done():
            times += 1
            await asyncio.sleep(0.02)
    return times


async def test_the_admin_listener_outlives_three_of_its_certificates(place: Place) -> None:
    """Its operator has a connection that stays, and opens new ones all the time."""
    pki = ensure_pki(place.layout.pki, now=datetime.now(UTC), leaf_life=LIFE)
    shown: list[x509.Certificate] = []

    def credentials() -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            pki.ca.read_bytes(), pki.client_key.read_bytes(), pki.client.read_bytes()
        )

    async with (
        listening(mutual_tls(pki.server, pki.server_key, pki.ca)) as port,
        running(place.certificates(leaf_life=LIFE)),
        grpc.aio.secure_channel(f"localhost:{port}", credentials()) as old,
    ):
        options = [("grpc.use_local_subchannel_pool", 1)]

        async def is_third_in_force() -> bool:
            async with grpc.aio.secure_channel(
                f"localhost:{port}", credentials(), options=options
            ) as new:
                await check(new)
            await check(old)
            now = await asyncio.to_thread(served, port, pki.ca, pki)
            if now not in shown:
                shown.append(now)
            return len(shown) >= 3 and datetime.now(UTC) > shown[0].not_valid_after_utc

        assert await until(is_third_in_force) > 5
    lives = [(one.not_valid_before_utc, one.not_valid_after_utc) for one in shown]
    assert lives == sorted(lives)
    assert len({public_key(one) for one in shown}) == 1


async def test_a_client_certificate_of_before_is_refused_when_it_has_ended(place: Place) -> None:
    """Renewal makes no certificate live longer than it says."""
    pki = ensure_pki(place.layout.pki, now=datetime.now(UTC), leaf_life=timedelta(seconds=2))
    ended = pki.client.read_bytes()
    async with (
        listening(mutual_tls(pki.server, pki.server_key, pki.ca)) as port,
        running(place.certificates(leaf_life=timedelta(hours=1))),
    ):

        async def is_refused() -> bool:
            held = grpc.ssl_channel_credentials(
                pki.ca.read_bytes(), pki.client_key.read_bytes(), ended
            )
            options = [("grpc.use_local_subchannel_pool", 1)]
            address = f"localhost:{port}"
            async with grpc.aio.secure_channel(address, held, options=options) as channel:
                try:
                    await check(channel)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        await until(is_refused)
        now = grpc.ssl_channel_credentials(
            pki.ca.read_bytes(), pki.client_key.read_bytes(), pki.client.read_bytes()
        )
        async with grpc.aio.secure_channel(f"localhost:{port}", now) as channel:
            await check(channel)


async def test_the_api_listener_takes_the_operators_renewed_certificate(
    place: Place, tmp_path: Path
) -> None:
    """Its files are written one after the other, as most tools do."""
    theirs = [
        ensure_pki(tmp_path / f"theirs-{at}", now=datetime.now(UTC) - timedelta(minutes=at))
        for at in range(3)
    ]
    source = tmp_path / "source"
    source.mkdir()
    place.tls = ServerSettings(tls_cert_file=source / "c.pem", tls_key_file=source / "k.pem")
    (source / "c.pem").write_bytes(theirs[0].server.read_bytes())
    (source / "k.pem").write_bytes(theirs[0].server_key.read_bytes())
    placed = place_certificate(place.tls, place.layout, None)
    assert placed.tls_cert_file is not None
    assert placed.tls_key_file is not None
    async with (
        listening(server_tls(placed.tls_cert_file, placed.tls_key_file)) as port,
        running(place.certificates()),
    ):
        for pki in theirs:
            (source / "c.pem").write_bytes(pki.server.read_bytes())
            await asyncio.sleep(0)
            (source / "k.pem").write_bytes(pki.server_key.read_bytes())

            async def is_served(wanted: Pki = pki) -> bool:
                roots = b"".join(one.ca.read_bytes() for one in theirs)
                (tmp_path / "roots").write_bytes(roots)
                now = await asyncio.to_thread(served, port, tmp_path / "roots")
                return now == x509.load_pem_x509_certificate(wanted.server.read_bytes())

            await until(is_served)


async def test_files_that_do_not_fit_leave_the_listener_as_it_is(place: Place) -> None:
    pki = ensure_pki(place.layout.pki, now=datetime.now(UTC))
    before = x509.load_pem_x509_certificate(pki.server.read_bytes())
    async with listening(mutual_tls(pki.server, pki.server_key, pki.ca)) as port:
        for content in (b"", b"broken", pki.client_key.read_bytes()):
            pki.server_key.write_bytes(content)
            assert await asyncio.to_thread(served, port, pki.ca, pki) == before
        pki.server_key.unlink()
        assert await asyncio.to_thread(served, port, pki.ca, pki) == before
        ensure_pki(place.layout.pki, now=datetime.now(UTC))
        assert await asyncio.to_thread(served, port, pki.ca, pki) != before


async def test_a_renewal_that_fails_is_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.layout.pki.write_text("in the way")
    async with running(place.certificates()):

        async def has_failed() -> bool:
            return "cannot be renewed" in caplog.text

        await until(has_failed)
        place.layout.pki.unlink()

        async def is_made() -> bool:
            return (place.layout.pki / "client.pem").exists()

        await until(is_made)
