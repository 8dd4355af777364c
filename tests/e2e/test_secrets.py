"""The four RPCs of SecretService, over gRPC, HTTP and the command line, on the same slots."""

import json

import grpc
import pytest
from tests.e2e.server import Server

from ignite.v1 import ignite_secret_pb2 as pb

CANARY = "canary-5d1f-secret"


class TestGrpc:
    def test_slot_comes_rotates_and_goes(self, server: Server) -> None:
        value = pb.SecretValue(registry_secret=pb.RegistrySecret(username="bot", password="one"))
        with server.secrets() as secrets:
            more = {"metadata": server.metadata, "timeout": 20}
            made = secrets.CreateSecret(
                pb.CreateSecretRequest(name="grpc", value=value),
                **more,  # type: ignore[arg-type]
            )
            assert made.metadata.type == "registry_secret"
            value.registry_secret.password = "two"
            secrets.CreateSecret(
                pb.CreateSecretRequest(name="grpc", value=value),
                **more,  # type: ignore[arg-type]
            )
            got = secrets.GetSecret(pb.GetSecretRequest(name="grpc"), **more)  # type: ignore[arg-type]
            assert got.secret.value.registry_secret.password == "two"
            for _ in range(2):
                secrets.DeleteSecret(pb.DeleteSecretRequest(name="grpc"), **more)  # type: ignore[arg-type]
            with pytest.raises(grpc.RpcError) as caught:
                secrets.GetSecret(pb.GetSecretRequest(name="grpc"), **more)  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


class TestHttp:
    def test_slot_comes_and_goes(self, server: Server) -> None:
        body = {"name": "http", "value": {"gitSecret": {"username": "u", "token": CANARY}}}
        made = server.http("POST", "/v1/ignite/secrets", body)
        assert (made.status, made.json()["metadata"]["type"]) == (200, "git_secret")
        assert CANARY.encode() not in made.body
        got = server.http("GET", "/v1/ignite/secrets/http").json()
        assert got["secret"]["value"] == {"gitSecret": {"username": "u", "token": CANARY}}
        listed = server.http("GET", "/v1/ignite/secrets")
        assert "http" in [slot["name"] for slot in listed.json()["secrets"]]
        assert CANARY.encode() not in listed.body
        assert server.http("DELETE", "/v1/ignite/secrets/http").status == 200
        assert server.http("GET", "/v1/ignite/secrets/http").status == 404

    @pytest.mark.parametrize("name", ["", "a b", "a" * 65, "a.b"])
    def test_bad_name_is_400(self, server: Server, name: str) -> None:
        body = {"name": name, "value": {"gitSecret": {"token": "x"}}}
        assert server.http("POST", "/v1/ignite/secrets", body).status == 400


class TestCommandLine:
    def test_slot_comes_and_goes(self, server: Server) -> None:
        arguments = ["--type", "git", "--username", "u", "--token", "-"]
        assert server.cli("secret", "create", "cli", *arguments, stdin=b"pat\n").returncode == 0
        got = json.loads(server.cli("secret", "get", "cli", "-o", "json").stdout)
        assert got["value"]["gitSecret"]["token"] == "pat"
        assert "cli" in server.cli("secret", "list").stdout
        assert server.cli("secret", "delete", "cli").returncode == 0
        assert server.cli("secret", "get", "cli").returncode == 5


def test_value_is_in_no_log_and_no_file_in_plain_text(server: Server) -> None:
    body = {"name": "canary", "value": {"gitSecret": {"username": "u", "token": CANARY}}}
    assert server.http("POST", "/v1/ignite/secrets", body).status == 200
    found = []
    for path in server.data.parent.rglob("*"):
        if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes():
            found.append(path.relative_to(server.data.parent))
    assert found == []
