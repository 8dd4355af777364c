"""The operator's commands: a client certificate instead of a token."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.fakes.ignite_server import refuse

from ignite.cli.commands.admin import CA, CERTIFICATE, KEY
from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1.ignite_admin_pb2_grpc import (
    AdminServiceServicer,
    add_AdminServiceServicer_to_server,
)

from .conftest import Cli

# ruff: noqa: N802 - methods carry the names of the contract


class FakeAdmin(AdminServiceServicer):
    """The part of AdminService that the command line calls."""

    def __init__(self) -> None:
        self.accounts: dict[str, pb.ServiceAccount] = {}
        self.organizations: dict[str, pb.Organization] = {}

    def CreateOrganization(self, request: Any, context: Any) -> Any:
        if request.name in self.organizations:
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "the name is taken", "NameTaken")
        made = pb.Organization(id="o-1", name=request.name, description=request.description)
        self.organizations[request.name] = made
        return pb.CreateOrganizationResponse(organization=made)

    def ListOrganizations(self, request: Any, context: Any) -> Any:
        return pb.ListOrganizationsResponse(organizations=self.organizations.values())

    def DeleteOrganization(self, request: Any, context: Any) -> Any:
        del self.organizations[request.organization_name]
        return pb.DeleteOrganizationResponse()

    def CreateServiceAccount(self, request: Any, context: Any) -> Any:
        made = pb.ServiceAccount(
            id="sa-1",
            organization_name=request.organization_name,
            name=request.name,
            roles=request.roles,
        )
        self.accounts[made.id] = made
        return pb.CreateServiceAccountResponse(service_account=made, secret="shown-once")

    def GetServiceAccount(self, request: Any, context: Any) -> Any:
        found = self.accounts.get(request.service_account_id)
        if found is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "no such account", "AccountNotFound")
        return pb.GetServiceAccountResponse(service_account=found)

    def ListServiceAccounts(self, request: Any, context: Any) -> Any:
        return pb.ListServiceAccountsResponse(service_accounts=self.accounts.values())

    def RotateServiceAccountSecret(self, request: Any, context: Any) -> Any:
        found = self.accounts[request.service_account_id]
        return pb.RotateServiceAccountSecretResponse(service_account=found, secret="another")

    def SetServiceAccountRoles(self, request: Any, context: Any) -> Any:
        found = self.accounts[request.service_account_id]
        found.roles[:] = request.roles
        return pb.SetServiceAccountRolesResponse(service_account=found)

    def DeleteServiceAccount(self, request: Any, context: Any) -> Any:
        del self.accounts[request.service_account_id]
        return pb.DeleteServiceAccountResponse()


def signed(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a certificate; without an issuer it is an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> tuple[bytes, bytes]:
    key = made[1].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made[0].public_bytes(serialization.Encoding.PEM), key


@pytest.fixture
def admin(home: Path) -> Iterator[FakeAdmin]:
    """An admin listener, and the folder of the installation that it belongs to."""
    authority = signed("authority", None)
    ca, _ = pem(authority)
    certificate, key = pem(signed("server", authority))
    own, own_key = pem(signed("operator", authority))
    pki = home / ".ignite" / "pki"
    pki.mkdir(parents=True)
    for name, data in ((CA, ca), (CERTIFICATE, own), (KEY, own_key)):
        (pki / name).write_bytes(data)
    fake = FakeAdmin()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_AdminServiceServicer_to_server(fake, server)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=ca, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    connection = {"grpc": "127.0.0.1:1", "admin": f"127.0.0.1:{port}", "org": "acme"}
    (home / ".ignite" / "connection.json").write_text(json.dumps(connection))
    try:
        yield fake
    finally:
        server.stop(grace=None).wait(5)


class TestOrganization:
    def test_organisations_come_and_go(self, bare: Cli, admin: FakeAdmin) -> None:
        assert bare("organization", "create", "beta", "--description", "two").code == 0
        assert "beta" in bare("organization", "list").out
        assert bare("organization", "delete", "beta").code == 0
        assert admin.organizations == {}

    def test_taken_name_is_6(self, bare: Cli, admin: FakeAdmin) -> None:
        assert admin.organizations == {}
        bare("organization", "create", "beta")
        result = bare("organization", "create", "beta")
        assert (result.code, result.err) == (6, "Error: the name is taken (NameTaken)\n")


class TestServiceAccount:
    def test_secret_is_shown_once(self, bare: Cli, admin: FakeAdmin) -> None:
        made = bare("service-account", "create", "ci", "--role", "ignite.app-developer")
        assert "shown-once" in made.out
        assert admin.accounts["sa-1"].organization_name == "acme"
        assert "shown-once" not in bare("service-account", "get", "sa-1").out

    def test_account_is_changed_and_deleted(self, bare: Cli, admin: FakeAdmin) -> None:
        bare("service-account", "create", "ci", "--org", "beta")
        assert admin.accounts["sa-1"].organization_name == "beta"
        assert "another" in bare("service-account", "rotate", "sa-1").out
        assert bare("service-account", "set-roles", "sa-1", "a", "b").code == 0
        assert list(admin.accounts["sa-1"].roles) == ["a", "b"]
        listed = bare("service-account", "list", "-o", "json").json()["serviceAccounts"]
        assert [account["id"] for account in listed] == ["sa-1"]
        assert bare("service-account", "delete", "sa-1").code == 0
        assert bare("service-account", "get", "sa-1").code == 5


class TestCertificates:
    def test_missing_certificate_is_named(self, bare: Cli, admin: FakeAdmin, home: Path) -> None:
        assert admin
        (home / ".ignite" / "pki" / CERTIFICATE).unlink()
        result = bare("organization", "list")
        assert (result.code, CERTIFICATE in result.err) == (1, True)

    def test_stranger_is_turned_away(self, bare: Cli, admin: FakeAdmin, home: Path) -> None:
        assert admin
        certificate, key = pem(signed("stranger", signed("other authority", None)))
        (home / ".ignite" / "pki" / CERTIFICATE).write_bytes(certificate)
        (home / ".ignite" / "pki" / KEY).write_bytes(key)
        result = bare("organization", "list", "--timeout", "5s")
        assert result.code == 9
        assert result.err.count("\n") == 1

    def test_without_an_installation_it_says_what_is_needed(self, bare: Cli) -> None:
        result = bare("organization", "list")
        assert (result.code, "--admin-endpoint" in result.err) == (2, True)
