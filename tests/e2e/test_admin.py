"""The operator's way: organisations and accounts by certificate, and what an account may do."""

import json
from pathlib import Path

import grpc
import pytest
from tests.e2e.server import Server

from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1.ignite_admin_pb2_grpc import AdminServiceStub


def account(server: Server, name: str, *roles: str, org: str) -> dict[str, str]:
    """Make a service account and return it with its secret."""
    flags = [part for role in roles for part in ("--role", role)]
    done = server.cli("service-account", "create", name, *flags, "--org", org, "-o", "json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    return {"id": made["serviceAccount"]["id"], "secret": made["secret"]}


class TestAccounts:
    def test_viewer_may_look_and_not_touch(self, server: Server, tmp_path: Path) -> None:
        made = account(server, "viewer", "ignite.app-viewer", org=server.org)
        config = ("--config", str(tmp_path / "config.yaml"))
        login = server.cli("login", made["id"], made["secret"], *config)
        assert login.returncode == 0, login.stderr
        assert server.cli("app", "list", *config).returncode == 0
        refused = server.cli("app", "create", "nope", *config)
        assert (refused.returncode, "DeployApp" in refused.stderr) == (4, True)

    def test_tenants_do_not_see_each_other(self, server: Server, hello: str) -> None:
        assert server.cli("organization", "create", "beta").returncode == 0
        made = account(server, "dev", "ignite.app-developer", org="beta")
        form = (
            f"grant_type=client_credentials&client_id={made['id']}&client_secret={made['secret']}"
        )
        answer = server.http(
            "POST",
            "/realms/dodil/protocol/openid-connect/token",
            form.encode(),
            headers={"content-type": "application/x-www-form-urlencoded"},
            token=None,
        )
        assert answer.status == 200
        token = answer.json()["access_token"]
        base = f"/v1/ignite/app/{server.org}"
        assert server.http("GET", base, token=token).status == 403
        assert server.http("GET", f"{base}/{hello}", token=token).status == 403
        host = server.host_of(hello)
        assert server.http("POST", "/", b"x", host=host, token=token).status == 403
        assert server.http("GET", "/v1/ignite/app/beta", token=token).json() == {}

    def test_rotated_and_deleted_secrets_stop_to_work(self, server: Server, tmp_path: Path) -> None:
        made = account(server, "rotated", "ignite.app-viewer", org=server.org)
        config = ("--config", str(tmp_path / "config.yaml"))
        rotated = server.cli("service-account", "rotate", made["id"], "-o", "json")
        secret = json.loads(rotated.stdout)["secret"]
        assert server.cli("login", made["id"], made["secret"], *config).returncode == 3
        assert server.cli("login", made["id"], secret, *config).returncode == 0
        assert server.cli("service-account", "delete", made["id"]).returncode == 0
        assert server.cli("login", made["id"], secret, *config).returncode == 3


class TestListener:
    def test_without_a_certificate_nobody_gets_in(self, server: Server) -> None:
        ca = (server.data / "pki" / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(root_certificates=ca)
        with (
            grpc.secure_channel(server.connection["admin"], credentials) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            AdminServiceStub(channel).ListRoles(pb.ListRolesRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_health_names_every_part(self, server: Server) -> None:
        with server.admin_channel() as channel:
            health = AdminServiceStub(channel).GetClusterHealth(
                pb.GetClusterHealthRequest(), timeout=20
            )
        states = {part.name: part.status for part in health.components}
        assert {"postgres", "gateway"} <= set(states)
        assert health.status == pb.HEALTH_STATUS_HEALTHY, health
        assert health.sandbox.level
