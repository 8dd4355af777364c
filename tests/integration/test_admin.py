"""AdminService over its mutual-TLS listener, and the certificates behind it."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from tests.fakes.accounts import FakeAccountStore
from tests.fakes.platform import FakePlatformSecrets
from tests.fakes.pools import FakeWarmPools
from tests.support.clocks import ManualClock

from ignite.domain.errors import Unavailable
from ignite.domain.health import (
    Health,
    HealthStatus,
    SandboxFeature,
    SandboxHealth,
)
from ignite.identity.claims import built_in_principal
from ignite.identity.hashing import ScryptHasher
from ignite.identity.issuer import Issuer
from ignite.identity.keystore import KeyStore
from ignite.identity.verifier import JwtVerifier
from ignite.pki import LEAF_LIFE, Pki, ensure_pki
from ignite.privileges import Owner
from ignite.rpc.auth import CertificateAuth
from ignite.rpc.server import Bind, grpc_component
from ignite.rpc.server import Service as RpcService
from ignite.rpc.tls import mutual_tls
from ignite.services.admin.accounts import ServiceAccounts
from ignite.services.admin.cluster import Cluster, ClusterFacts
from ignite.services.admin.organizations import Organizations
from ignite.services.admin.servicer import AdminServicer, AdminUseCases
from ignite.services.admin.tokens import OperatorTokens
from ignite.settings import IdentitySettings, LimitSettings
from ignite.v1 import ignite_admin_pb2 as pb
from ignite.v1 import ignite_admin_pb2_grpc as pb_grpc

ADMIN = "dodil.ignite.v1.AdminService"


async def healthy() -> Health:
    return Health(status=HealthStatus.HEALTHY)


async def slow() -> Health:
    await asyncio.Event().wait()
    raise AssertionError


async def sealed() -> Health:
    raise Unavailable("the store is sealed")


async def broken() -> Health:
    raise ValueError("password=hunter2")


async def sandbox() -> SandboxHealth:
    feature = SandboxFeature(name="seccomp", enforced=False, detail="no module")
    return SandboxHealth(
        level="partial", required_level="full", sufficient=False, features=(feature,)
    )


@dataclass
class Admin:
    pki: Pki
    port: int
    stub: Any
    verifier: JwtVerifier
    probes: dict[str, Any]
    store: FakeAccountStore


def credentials(pki: Pki, *, certificate: bool = True) -> grpc.ChannelCredentials:
    if not certificate:
        return grpc.ssl_channel_credentials(pki.ca.read_bytes())
    return grpc.ssl_channel_credentials(
        pki.ca.read_bytes(), pki.client_key.read_bytes(), pki.client.read_bytes()
    )


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    clock = ManualClock(datetime.now(UTC))
    pki = ensure_pki(tmp_path / "pki", now=clock())
    keys = KeyStore(FakePlatformSecrets(), IdentitySettings(), clock)
    await keys.load()
    issuer = Issuer(keys, "http://issuer", IdentitySettings(), clock)
    store = FakeAccountStore(clock)
    limits = LimitSettings(page_size=3, default_page_size=2)
    accounts = ServiceAccounts(store, ScryptHasher(), limits, clock)
    probes: dict[str, Any] = {"postgres": healthy}
    cluster = Cluster(
        probes,
        ClusterFacts(version="1.2", backend="process"),
        clock,
        sandbox=sandbox,
        probe_secs=0.2,
    )
    cluster._probes = probes
    use_cases = AdminUseCases(
        organizations=Organizations(store, limits),
        accounts=accounts,
        tokens=OperatorTokens(accounts, store, issuer),
        keys=keys,
        cluster=cluster,
        pools=FakeWarmPools(),
    )
    servicer = AdminServicer(use_cases, limits)
    server = grpc_component(
        name="admin",
        binds=[
            Bind(
                address="127.0.0.1:0",
                credentials=mutual_tls(pki.server, pki.server_key, pki.ca),
            )
        ],
        services=[
            RpcService(
                name=ADMIN, add=pb_grpc.add_AdminServiceServicer_to_server, servicer=servicer
            )
        ],
        auth=CertificateAuth(),
    )
    verifier = JwtVerifier(
        keys, issuer="http://issuer", audience="ignite", read=built_in_principal, clock=clock
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        port = server.ports["127.0.0.1:0"]
        async with channel(port, credentials(pki)) as stub:
            yield Admin(pki, port, stub, verifier, probes, store)
        task.cancel()


@asynccontextmanager
async def channel(port: int, given: grpc.ChannelCredentials) -> AsyncIterator[Any]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", given, options=options) as opened:
        yield pb_grpc.AdminServiceStub(opened)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class TestMutualTls:
    async def test_client_certificate_lets_in(self, admin: Admin) -> None:
        await admin.stub.ListRoles(pb.ListRolesRequest(), timeout=20)

    async def test_without_a_certificate_nobody_gets_in(self, admin: Admin) -> None:
        async with channel(admin.port, credentials(admin.pki, certificate=False)) as stub:
            error = await refusal(stub.ListRoles(pb.ListRolesRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_certificate_of_another_ca_is_refused(self, admin: Admin, tmp_path: Path) -> None:
        other = ensure_pki(tmp_path / "other", now=datetime.now(UTC))
        forged = grpc.ssl_channel_credentials(
            admin.pki.ca.read_bytes(), other.client_key.read_bytes(), other.client.read_bytes()
        )
        async with channel(admin.port, forged) as stub:
            error = await refusal(stub.ListRoles(pb.ListRolesRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_server_certificate_is_no_client_certificate(self, admin: Admin) -> None:
        pki = admin.pki
        stolen = grpc.ssl_channel_credentials(
            pki.ca.read_bytes(), pki.server_key.read_bytes(), pki.server.read_bytes()
        )
        async with channel(admin.port, stolen) as stub:
            error = await refusal(stub.ListRoles(pb.ListRolesRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_expired_certificate_is_refused(self, admin: Admin, tmp_path: Path) -> None:
        folder = tmp_path / "old"
        folder.mkdir()
        for name in ("ca.pem", "ca-key.pem"):
            (folder / name).write_bytes((admin.pki.folder / name).read_bytes())
        old = ensure_pki(folder, now=datetime.now(UTC) - LEAF_LIFE - timedelta(days=1))
        expired = grpc.ssl_channel_credentials(
            admin.pki.ca.read_bytes(), old.client_key.read_bytes(), old.client.read_bytes()
        )
        async with channel(admin.port, expired) as stub:
            error = await refusal(stub.ListRoles(pb.ListRolesRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_plain_text_is_refused(self, admin: Admin) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{admin.port}") as opened:
            stub: Any = pb_grpc.AdminServiceStub(opened)
            error = await refusal(stub.ListRoles(pb.ListRolesRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


class TestRpcs:
    async def test_life_of_an_organization(self, admin: Admin) -> None:
        made = await admin.stub.CreateOrganization(
            pb.CreateOrganizationRequest(name="acme", description="text")
        )
        assert made.organization.created_at_ms > 0
        found = await admin.stub.GetOrganization(
            pb.GetOrganizationRequest(organization_name="acme")
        )
        assert found.organization == made.organization
        again = admin.stub.CreateOrganization(pb.CreateOrganizationRequest(name="acme"))
        assert (await refusal(again)).code() is grpc.StatusCode.ALREADY_EXISTS
        await admin.stub.DeleteOrganization(pb.DeleteOrganizationRequest(organization_name="acme"))
        gone = admin.stub.GetOrganization(pb.GetOrganizationRequest(organization_name="acme"))
        assert (await refusal(gone)).code() is grpc.StatusCode.NOT_FOUND

    async def test_organization_with_apps_is_not_deleted(self, admin: Admin) -> None:
        await admin.stub.CreateOrganization(pb.CreateOrganizationRequest(name="acme"))
        admin.store.with_apps.add("acme")
        call = admin.stub.DeleteOrganization(pb.DeleteOrganizationRequest(organization_name="acme"))
        assert (await refusal(call)).code() is grpc.StatusCode.FAILED_PRECONDITION

    async def test_pages_of_organizations(self, admin: Admin) -> None:
        names = [f"org-{number}" for number in range(5)]
        for name in names:
            await admin.stub.CreateOrganization(pb.CreateOrganizationRequest(name=name))
        seen: list[str] = []
        sizes: list[int] = []
        cursor = ""
        while True:
            page = await admin.stub.ListOrganizations(
                pb.ListOrganizationsRequest(limit=9, cursor=cursor)
            )
            seen += [one.name for one in page.organizations]
            sizes.append(len(page.organizations))
            cursor = page.next_cursor
            if not cursor:
                break
        assert (seen, sizes) == (names, [3, 2])

    async def test_forged_cursor_is_refused(self, admin: Admin) -> None:
        page = await admin.stub.ListRoles(pb.ListRolesRequest(limit=1))
        for cursor in ("x", page.next_cursor[:-1], page.next_cursor):
            call = admin.stub.ListOrganizations(pb.ListOrganizationsRequest(cursor=cursor))
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "cursor" in (error.details() or "")

    async def test_life_of_a_service_account(self, admin: Admin) -> None:
        await admin.stub.CreateOrganization(pb.CreateOrganizationRequest(name="acme"))
        made = await admin.stub.CreateServiceAccount(
            pb.CreateServiceAccountRequest(
                organization_name="acme", name="ci", roles=["ignite.app-viewer"]
            )
        )
        account = made.service_account
        assert account.id.startswith("sa_")
        asked = pb.GetServiceAccountRequest(service_account_id=account.id)
        assert (await admin.stub.GetServiceAccount(asked)).service_account == account
        listed = await admin.stub.ListServiceAccounts(pb.ListServiceAccountsRequest())
        assert list(listed.service_accounts) == [account]
        changed = await admin.stub.SetServiceAccountRoles(
            pb.SetServiceAccountRolesRequest(
                service_account_id=account.id, roles=["ignite.model-user"]
            )
        )
        assert list(changed.service_account.roles) == ["ignite.model-user"]
        rotated = await admin.stub.RotateServiceAccountSecret(
            pb.RotateServiceAccountSecretRequest(service_account_id=account.id)
        )
        assert rotated.secret
        assert rotated.secret != made.secret
        token = await admin.stub.IssueToken(pb.IssueTokenRequest(service_account_id=account.id))
        principal = await admin.verifier.verify(token.access_token)
        assert (principal.subject, principal.organization.name) == (account.id, "acme")
        await admin.stub.DeleteServiceAccount(
            pb.DeleteServiceAccountRequest(service_account_id=account.id)
        )
        assert (await refusal(admin.stub.GetServiceAccount(asked))).code() is (
            grpc.StatusCode.NOT_FOUND
        )

    async def test_development_token(self, admin: Admin) -> None:
        await admin.stub.CreateOrganization(pb.CreateOrganizationRequest(name="acme"))
        who = pb.DevelopmentSubject(organization_name="acme", name="ann", roles=["ignite.admin"])
        token = await admin.stub.IssueToken(pb.IssueTokenRequest(development=who, ttl_secs=60))
        assert (token.token_type, token.expires_in) == ("Bearer", 60)
        assert (await admin.verifier.verify(token.access_token)).subject == "dev:ann"
        nobody = await refusal(admin.stub.IssueToken(pb.IssueTokenRequest()))
        assert nobody.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_rotation_answers_its_times(self, admin: Admin) -> None:
        done = await admin.stub.RotateSigningKey(pb.RotateSigningKeyRequest())
        assert done.key_id != done.previous_key_id
        assert done.signs_from_ms < done.previous_verifies_until_ms
        again = await refusal(admin.stub.RotateSigningKey(pb.RotateSigningKeyRequest()))
        assert again.code() is grpc.StatusCode.FAILED_PRECONDITION

    async def test_roles_with_their_scopes(self, admin: Admin) -> None:
        page = await admin.stub.ListRoles(pb.ListRolesRequest(limit=3))
        assert [role.name for role in page.roles] == [
            "ignite.admin",
            "ignite.app-developer",
            "ignite.app-viewer",
        ]
        assert "InvokeApp" in page.roles[1].scopes
        assert all(role.description for role in page.roles)


class TestWarmPools:
    async def test_a_size_is_set_and_listed(self, admin: Admin) -> None:
        request = pb.SetWarmPoolSizeRequest(runtime="python", runtime_version="3.11", size=3)
        wanted = pb.WarmPool(runtime="python", runtime_version="3.11", size=3)
        assert (await admin.stub.SetWarmPoolSize(request)).pool == wanted
        assert list((await admin.stub.ListWarmPools(pb.ListWarmPoolsRequest())).pools) == [wanted]

    async def test_the_list_has_pages(self, admin: Admin) -> None:
        for version in ("3.11", "3.12", "3.13"):
            await admin.stub.SetWarmPoolSize(
                pb.SetWarmPoolSizeRequest(runtime="python", runtime_version=version, size=1)
            )
        first = await admin.stub.ListWarmPools(pb.ListWarmPoolsRequest(limit=2))
        rest = await admin.stub.ListWarmPools(
            pb.ListWarmPoolsRequest(limit=2, cursor=first.next_cursor)
        )
        assert [pool.runtime_version for pool in first.pools] == ["3.11", "3.12"]
        assert [pool.runtime_version for pool in rest.pools] == ["3.13"]
        assert not rest.next_cursor

    async def test_an_unknown_runtime_is_refused(self, admin: Admin) -> None:
        error = await refusal(
            admin.stub.SetWarmPoolSize(pb.SetWarmPoolSizeRequest(runtime="cobol", size=1))
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestHealth:
    async def test_worst_component_decides(self, admin: Admin) -> None:
        admin.probes.update(gateway=slow, secrets=sealed, other=broken)
        answer = await admin.stub.GetClusterHealth(pb.GetClusterHealthRequest())
        found = {one.name: (one.status, one.message) for one in answer.components}
        assert found == {
            "postgres": (pb.HEALTH_STATUS_HEALTHY, ""),
            "gateway": (pb.HEALTH_STATUS_UNHEALTHY, "no answer in 0.2 s"),
            "secrets": (pb.HEALTH_STATUS_UNHEALTHY, "the store is sealed"),
            "other": (pb.HEALTH_STATUS_UNHEALTHY, "ValueError"),
        }
        assert answer.status == pb.HEALTH_STATUS_UNHEALTHY
        assert (answer.version, answer.backend) == ("1.2", "process")

    async def test_weak_sandbox_degrades(self, admin: Admin) -> None:
        answer = await admin.stub.GetClusterHealth(pb.GetClusterHealthRequest())
        assert answer.status == pb.HEALTH_STATUS_DEGRADED
        assert (answer.sandbox.level, answer.sandbox.sufficient) == ("partial", False)
        assert answer.sandbox.features[0].detail == "no module"


class TestPki:
    NOW = datetime(2030, 1, 1, tzinfo=UTC)
    OTHER = Owner(name="other", uid=12345, gid=12346)

    def contents(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def test_files_are_for_the_owner_alone(self, tmp_path: Path) -> None:
        pki = ensure_pki(tmp_path / "a" / "pki", now=self.NOW)
        assert stat.S_IMODE(pki.folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in pki.folder.iterdir()} == {0o600}
        assert len(list(pki.folder.iterdir())) == 6

    def test_second_start_changes_nothing(self, tmp_path: Path) -> None:
        ensure_pki(tmp_path, now=self.NOW)
        before = self.contents(tmp_path)
        ensure_pki(tmp_path, now=self.NOW + timedelta(days=260))
        assert self.contents(tmp_path) == before

    def test_with_a_third_of_their_life_left_leaves_are_renewed_and_keep_their_keys(
        self, tmp_path: Path
    ) -> None:
        ensure_pki(tmp_path, now=self.NOW)
        before = self.contents(tmp_path)
        ensure_pki(tmp_path, now=self.NOW + timedelta(days=266))
        after = self.contents(tmp_path)
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"server.pem", "client.pem"}

    def test_old_and_new_certificates_of_the_ca_fit_what_either_has_signed(
        self, tmp_path: Path
    ) -> None:
        ensure_pki(tmp_path, now=self.NOW)
        before = self.contents(tmp_path)
        ensure_pki(tmp_path, now=self.NOW + timedelta(days=2500))
        after = self.contents(tmp_path)
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"ca.pem", "server.pem", "client.pem"}
        for ca in (before["ca.pem"], after["ca.pem"]):
            for leaf in (before["server.pem"], after["server.pem"], after["client.pem"]):
                x509.load_pem_x509_certificate(leaf).verify_directly_issued_by(
                    x509.load_pem_x509_certificate(ca)
                )

    @pytest.mark.parametrize("name", ["server.pem", "server-key.pem"])
    @pytest.mark.parametrize("content", [None, b"", b"broken"])
    def test_broken_or_missing_file_is_made_anew(
        self, tmp_path: Path, name: str, content: bytes | None
    ) -> None:
        ensure_pki(tmp_path, now=self.NOW)
        before = self.contents(tmp_path)
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content)
        ensure_pki(tmp_path, now=self.NOW)
        after = self.contents(tmp_path)
        assert after["server.pem"] != before["server.pem"]
        assert after["ca.pem"] == before["ca.pem"]
        assert after["client.pem"] == before["client.pem"]

    def test_names_of_the_server(self, tmp_path: Path) -> None:
        ensure_pki(tmp_path, now=self.NOW)
        pki = ensure_pki(tmp_path, now=self.NOW, names=["admin.example", "10.0.0.1"])
        certificate = x509.load_pem_x509_certificate(pki.server.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert {str(one.value) for one in names.value} == {
            "localhost",
            "127.0.0.1",
            "::1",
            "admin.example",
            "10.0.0.1",
        }

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
    def test_owner_gets_all_but_the_cas_key(self, tmp_path: Path) -> None:
        pki = ensure_pki(tmp_path / "pki", now=self.NOW, owner=self.OTHER)
        owners = {path.name: path.stat().st_uid for path in pki.folder.iterdir()}
        assert owners.pop("ca-key.pem") == 0
        assert set(owners.values()) == {12345}
