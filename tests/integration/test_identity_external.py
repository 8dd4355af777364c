"""Another OIDC issuer over real HTTP: discovery, key sets, rotation, and misbehaviour."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from tests.support.clocks import ManualClock

from ignite.domain.errors import Unauthenticated, Unavailable
from ignite.domain.identity import Scope
from ignite.identity.claims import principal_by_roles
from ignite.identity.fetch import MAX_BYTES, fetch_by_discovery, fetch_url
from ignite.identity.jwks import Fetch, JwksCache
from ignite.identity.verifier import JwtVerifier

DISCOVERY = "/realms/x/.well-known/openid-configuration"
CERTS = "/certs"


class Issuer:
    """An issuer in a thread. `answers` maps paths to what they give."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[], tuple[int, bytes]]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, body = outer.answers.get(self.path, lambda: (404, b""))()
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("location", body.decode())
                    body = b""
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.issuer = f"{self.url}/realms/x"
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.answers[CERTS] = self.certs
        self.answers[DISCOVERY] = lambda: self.discovery(self.issuer, f"{self.url}{CERTS}")
        self.rotate("one")

    def rotate(self, kid: str) -> None:
        self.keys = {kid: rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def certs(self) -> tuple[int, bytes]:
        rows = [
            {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "RS256"}
            for kid, key in self.keys.items()
        ]
        return 200, json.dumps({"keys": rows}).encode()

    @staticmethod
    def discovery(issuer: str, jwks: str) -> tuple[int, bytes]:
        return 200, json.dumps({"issuer": issuer, "jwks_uri": jwks}).encode()

    def token(self, clock: ManualClock, **changes: Any) -> str:
        now = int(clock.now.timestamp())
        claims = {
            "iss": self.issuer,
            "aud": ["account", "ignite"],
            "sub": "user-1",
            "exp": now + 60,
            "organization": {"acme": {"id": "7"}},
            "realm_access": {"roles": ["ignite.app-viewer", "offline_access"]},
        }
        kid, key = next(iter(self.keys.items()))
        return jwt.encode({**claims, **changes}, key, algorithm="RS256", headers={"kid": kid})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def verifier(issuer: Issuer, clock: ManualClock, fetch: Fetch | None = None) -> JwtVerifier:
    cache = JwksCache(
        fetch or fetch_by_discovery(issuer.issuer),
        refresh_secs=300,
        min_interval_secs=10,
        monotonic=clock.monotonic,
    )
    return JwtVerifier(
        cache,
        issuer=issuer.issuer,
        audience="ignite",
        read=principal_by_roles("realm_access.roles"),
        clock=clock,
    )


class TestBelieving:
    async def test_user_with_a_role_by_discovery(self, issuer: Issuer) -> None:
        clock = ManualClock()
        principal = await verifier(issuer, clock).verify(issuer.token(clock))
        assert (principal.subject, principal.organization.name) == ("user-1", "acme")
        assert Scope.GET_APP in principal.scopes
        assert Scope.DEPLOY_APP not in principal.scopes
        assert issuer.asked == [DISCOVERY, CERTS]

    async def test_key_set_at_a_given_address(self, issuer: Issuer) -> None:
        clock = ManualClock()
        fetch = fetch_url(f"{issuer.url}{CERTS}")
        assert await verifier(issuer, clock, fetch).verify(issuer.token(clock))
        assert issuer.asked == [CERTS]

    async def test_rotated_key_is_learned_at_its_first_token(self, issuer: Issuer) -> None:
        clock = ManualClock()
        trust = verifier(issuer, clock)
        await trust.verify(issuer.token(clock))
        issuer.rotate("two")
        clock.forward(11)
        assert await trust.verify(issuer.token(clock))

    async def test_wrong_claims_are_refused(self, issuer: Issuer) -> None:
        clock = ManualClock()
        trust = verifier(issuer, clock)
        for changes in ({"aud": "account"}, {"iss": "http://evil"}, {"exp": 1}, {"sub": ""}):
            with pytest.raises(Unauthenticated):
                await trust.verify(issuer.token(clock, **changes))


class TestMisbehaving:
    async def test_absent_issuer_is_unavailable(self, issuer: Issuer) -> None:
        clock = ManualClock()
        trust = verifier(issuer, clock, fetch_url("http://127.0.0.1:1/certs"))
        with pytest.raises(Unavailable):
            await trust.verify(issuer.token(clock))

    @pytest.mark.parametrize(
        "answer",
        [
            (500, b""),
            (200, b"<html>"),
            (200, b"[]"),
            (200, b"{}"),
            (302, b"http://169.254.169.254/latest"),
            (200, b" " * (MAX_BYTES + 1)),
        ],
    )
    async def test_strange_discovery_is_unavailable(
        self, issuer: Issuer, answer: tuple[int, bytes]
    ) -> None:
        issuer.answers[DISCOVERY] = lambda: answer
        clock = ManualClock()
        with pytest.raises(Unavailable):
            await verifier(issuer, clock).verify(issuer.token(clock))
        assert issuer.asked == [DISCOVERY]

    @pytest.mark.parametrize("jwks", ["file:///etc/passwd", "ftp://x/y", "/certs", "", 7])
    async def test_key_address_that_is_no_http_is_not_fetched(
        self, issuer: Issuer, jwks: Any
    ) -> None:
        issuer.answers[DISCOVERY] = lambda: Issuer.discovery(issuer.issuer, jwks)
        clock = ManualClock()
        with pytest.raises(Unavailable):
            await verifier(issuer, clock).verify(issuer.token(clock))

    async def test_discovery_of_another_issuer_is_not_believed(self, issuer: Issuer) -> None:
        issuer.answers[DISCOVERY] = lambda: Issuer.discovery("http://evil", issuer.url + CERTS)
        clock = ManualClock()
        with pytest.raises(Unavailable):
            await verifier(issuer, clock).verify(issuer.token(clock))

    @pytest.mark.parametrize("address", ["", "file:///x", "localhost/certs"])
    def test_setting_that_is_no_address_is_refused(self, address: str) -> None:
        with pytest.raises(ValueError, match="not an http"):
            fetch_url(address)
