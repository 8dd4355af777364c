"""Tokens at every door alike: gRPC, HTTP Invoke, an app that is warm, an app that sleeps.

A second issuer, of the test's own, signs whatever it is asked to: what is wrong with a token is
wrong at one door exactly if it is at all of them.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from tests.e2e.conftest import HELLO, folder
from tests.e2e.server import Server

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

DOORS = ("grpc", "invoke", "warm", "cold")


class Issuer:
    """An OIDC issuer on loopback."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        row = {**RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True), "kid": "k1"}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers = {
                    "/.well-known/openid-configuration": {
                        "issuer": outer.url,
                        "jwks_uri": f"{outer.url}/certs",
                    },
                    "/certs": {"keys": [{**row, "use": "sig", "alg": "RS256"}]},
                }
                body = json.dumps(answers.get(self.path, {})).encode()
                self.send_response(200 if self.path in answers else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims but for the changes; None takes one away."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "ignite",
            "sub": "user-1",
            "iat": now,
            "exp": now + 300,
            "organization": {"acme": {"id": "7"}},
            "realm_access": {"roles": ["ignite.app-developer"]},
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, **changes: Any) -> str:
        """Sign the claims as they should be signed."""
        return jwt.encode(
            self.claims(**changes), self.key, algorithm="RS256", headers={"kid": "k1"}
        )

    def unsigned(self) -> str:
        """Return a token that says that it needs no signature."""
        head = {"alg": "none", "kid": "k1", "typ": "JWT"}
        return ".".join((_part(head), _part(self.claims()), ""))

    def confused(self) -> str:
        """Return a token whose secret is our public key, as if it were a shared one."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        head = {"alg": "HS256", "kid": "k1", "typ": "JWT"}
        text = f"{_part(head)}.{_part(self.claims())}"
        signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        return f"{text}.{_text(signer.sign(text.encode(), public))}"

    def forged(self, **header: Any) -> str:
        """Sign with another key; the header may bring that key along."""
        return jwt.encode(
            self.claims(), self.other, algorithm="RS256", headers={"kid": "k1", **header}
        )

    def altered(self) -> str:
        """Return a good token with other claims under the old signature."""
        head, _, signature = self.token().split(".")
        return f"{head}.{_part(self.claims(sub='root'))}.{signature}"


def _part(value: object) -> str:
    return _text(json.dumps(value).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Doors:
    """The ways in, each with an app behind it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def knock(self, door: str, token: str, scheme: str = "Bearer", **headers: str) -> int:
        """Return the HTTP status, or what a gRPC status is in HTTP."""
        headers["authorization"] = f"{scheme} {token}"
        match door:
            case "grpc":
                return self._grpc(headers)
            case "invoke":
                path = "/v1/ignite/app/acme/warm/invoke"
                return self.server.http("POST", path, {}, token=None, headers=headers).status
            case _:
                host = self.server.host_of(door)
                return self.server.http("POST", "/", host=host, token=None, headers=headers).status

    def _grpc(self, headers: dict[str, str]) -> int:
        metadata = tuple(headers.items())
        request = pb.InvokeRequest(organization_name="acme", app_name="warm")
        try:
            with self.server.compute() as stub:
                frames = list(stub.Invoke(request, metadata=metadata, timeout=60))
                return int(frames[0].head.status_code)
        except grpc.RpcError as error:
            statuses = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
            return statuses.get(error.code().name, 500)

    def is_cold(self) -> bool:
        """Return whether the app `cold` sleeps."""
        request = pb.GetAppStateRequest(organization_name="acme", app_name="cold")
        with self.server.compute() as stub:
            state = stub.GetAppState(request, metadata=self.server.metadata)
        return bool(state.deployment_state == common.DEPLOYMENT_STATE_COLD)


@pytest.fixture(scope="module")
def doors(issuer: Issuer) -> Iterator[Doors]:
    """A server that believes the issuer, with an app that is warm and one that sleeps."""
    with folder() as home:
        server = Server(
            home / "data",
            {
                "IGNITE__IDENTITY__EXTERNAL_ISSUER": issuer.url,
                "IGNITE__IDENTITY__EXTERNAL_AUDIENCE": "ignite",
                "IGNITE__SCALING__SCALEDOWN_FLOOR_SECS": "1",
            },
        )
        try:
            server.start()
            server.deploy("warm", HELLO)
            server.deploy("cold", HELLO, "--scaledown-period-secs", "1")
            made = Doors(server)
            ends = time.monotonic() + 60
            while not made.is_cold():
                assert time.monotonic() < ends, "the app does not go to sleep"
                time.sleep(0.1)
            yield made
        finally:
            if server.is_running():
                server.stop()


BAD: dict[str, Callable[[Issuer], str]] = {
    "none": lambda issuer: issuer.unsigned(),
    "confused": lambda issuer: issuer.confused(),
    "forged": lambda issuer: issuer.forged(),
    "key brought along": lambda issuer: issuer.forged(
        jwk=RSAAlgorithm.to_jwk(issuer.other.public_key(), as_dict=True)
    ),
    "unknown key": lambda issuer: issuer.forged(kid="k2"),
    "altered": lambda issuer: issuer.altered(),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 60),
    "without end": lambda issuer: issuer.token(exp=None),
    "not yet": lambda issuer: issuer.token(nbf=int(time.time()) + 600),
    "other audience": lambda issuer: issuer.token(aud="account"),
    "other issuer": lambda issuer: issuer.token(iss="http://127.0.0.1:1"),
    "noise": lambda _: "a.b.c",
    "empty": lambda _: " ",
}


@pytest.mark.parametrize("door", DOORS)
class TestDoors:
    @pytest.mark.parametrize("what", BAD)
    def test_bad_token_is_401(self, doors: Doors, issuer: Issuer, door: str, what: str) -> None:
        assert doors.knock(door, BAD[what](issuer)) == 401

    def test_token_of_two_organizations_is_refused(
        self, doors: Doors, issuer: Issuer, door: str
    ) -> None:
        both = {"acme": {"id": "7"}, "globex": {"id": "8"}}
        assert doors.knock(door, issuer.token(organization=both)) in (401, 403)
        turned = dict(reversed(both.items()))
        assert doors.knock(door, issuer.token(organization=turned)) in (401, 403)

    def test_token_of_another_organization_is_403_whatever_headers_say(
        self, doors: Doors, issuer: Issuer, door: str
    ) -> None:
        other = issuer.token(organization={"globex": {"id": "8"}})
        claim = {"x-organization-name": "acme", "x-ignite-organization-id": "7"}
        assert doors.knock(door, other) == 403
        assert doors.knock(door, other, **claim) == 403

    def test_role_without_the_scope_is_403(self, doors: Doors, issuer: Issuer, door: str) -> None:
        for roles in (["ignite.app-viewer"], ["ignite.admins"], [], "x"):
            token = issuer.token(realm_access={"roles": roles})
            assert doors.knock(door, token) == 403

    def test_token_without_an_organization_is_refused(
        self, doors: Doors, issuer: Issuer, door: str
    ) -> None:
        wrong: tuple[object, ...] = (None, {}, "acme", ["acme"])
        for organization in wrong:
            token = issuer.token(organization=organization)
            assert doors.knock(door, token) in (401, 403), organization


def test_nobody_who_was_refused_has_woken_an_app(doors: Doors, issuer: Issuer) -> None:
    for make in BAD.values():
        assert doors.knock("cold", make(issuer)) == 401
    assert doors.knock("cold", issuer.token(organization={"globex": {"id": "8"}})) == 403
    assert doors.is_cold()


@pytest.mark.parametrize("door", DOORS)
def test_good_token_of_the_other_issuer(doors: Doors, issuer: Issuer, door: str) -> None:
    assert doors.knock(door, issuer.token()) == 200


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
@pytest.mark.parametrize("door", DOORS)
def test_the_schemes_name_may_be_in_any_case(
    doors: Doors, issuer: Issuer, door: str, scheme: str
) -> None:
    assert doors.knock(door, issuer.token(), scheme) == 200
    assert doors.knock(door, issuer.forged(), scheme) == 401
