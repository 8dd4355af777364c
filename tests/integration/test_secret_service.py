"""SecretService over a real socket, on the fake store and on a real OpenBao."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tests.fakes.secrets import FakeSecretStore

from ignite.domain.errors import Unauthenticated
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    Principal,
    Scope,
)
from ignite.ports.secrets import SecretStore
from ignite.rpc.auth import BearerAuth
from ignite.rpc.policy import policies_of
from ignite.rpc.server import Bind, Service, grpc_component
from ignite.secretstores.client import VaultClient
from ignite.secretstores.vault import VaultSecretStore
from ignite.services.secret.servicer import SecretServicer
from ignite.services.secret.slots import Slots
from ignite.settings import LimitSettings, VaultSettings
from ignite.v1 import ignite_secret_pb2 as pb
from ignite.v1 import ignite_secret_pb2_grpc as pb_grpc

SECRETS = "dodil.ignite.v1.SecretService"
CANARY = "canary-0b5d"
GIT = pb.SecretValue(git_secret=pb.GitSecret(username="me", token=CANARY))
REGISTRY = pb.SecretValue(
    registry_secret=pb.RegistrySecret(username="me", password=CANARY, server_address="ghcr.io")
)


class Verifier:
    """Believes `organization` or `organization:Scope,…` as a token."""

    async def verify(self, token: str) -> Principal:
        name, _, scopes = token.partition(":")
        if not name:
            raise Unauthenticated("the token is not good")
        organization = Organization(id=OrganizationId(name), name=OrganizationName(name))
        granted = frozenset(map(Scope, scopes.split(","))) if scopes else frozenset(Scope)
        return Principal(subject=f"sa-{name}", organization=organization, scopes=granted)


class Caller:
    """A stub that calls with one token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = pb_grpc.SecretServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def create(self, name: str, value: pb.SecretValue | None) -> pb.SecretMetadata:
        request = pb.CreateSecretRequest(name=name, value=value)
        answer = await self._stub.CreateSecret(request, metadata=self._metadata, timeout=20)
        return answer.metadata

    async def get(self, name: str) -> pb.Secret:
        request = pb.GetSecretRequest(name=name)
        return (await self._stub.GetSecret(request, metadata=self._metadata, timeout=20)).secret

    async def list(self, limit: int = 0, cursor: str = "") -> pb.ListSecretsResponse:
        request = pb.ListSecretsRequest(limit=limit, cursor=cursor)
        return await self._stub.ListSecrets(request, metadata=self._metadata, timeout=20)

    async def delete(self, name: str) -> None:
        request = pb.DeleteSecretRequest(name=name)
        await self._stub.DeleteSecret(request, metadata=self._metadata, timeout=20)


@asynccontextmanager
async def served(store: SecretStore, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc_component(
        name="test",
        binds=[Bind.unix(folder / "s")],
        services=[
            Service(
                name=SECRETS,
                add=pb_grpc.add_SecretServiceServicer_to_server,
                servicer=SecretServicer(Slots(store), LimitSettings()),
            )
        ],
        auth=BearerAuth(Verifier(), policies_of([SECRETS])),
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{folder / 's'}", options=options) as channel:
            yield channel
        task.cancel()


@pytest.fixture
def fake() -> FakeSecretStore:
    return FakeSecretStore()


@pytest.fixture
async def channel(fake: FakeSecretStore, short_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with served(fake, short_folder) as channel:
        yield channel


@pytest.fixture
def acme(channel: grpc.aio.Channel) -> Caller:
    return Caller(channel, "acme")


async def test_all_four_calls_work_on_a_real_store(
    openbao_server: VaultSettings, organization: OrganizationName, short_folder: Path
) -> None:
    client = VaultClient(openbao_server)
    async with served(VaultSecretStore(client), short_folder) as channel:
        caller = Caller(channel, organization)
        created = await caller.create("slot", GIT)
        assert (created.name, created.type) == ("slot", "git_secret")
        assert created.created_at_ms > 1_600_000_000_000
        rotated = await caller.create("slot", REGISTRY)
        assert rotated.type == "registry_secret"
        assert rotated.created_at_ms == created.created_at_ms
        assert rotated.updated_at_ms >= created.updated_at_ms
        assert await caller.get("slot") == pb.Secret(metadata=rotated, value=REGISTRY)
        assert list((await caller.list()).secrets) == [rotated]
        await caller.delete("slot")
        await caller.delete("slot")
        assert not (await caller.list()).secrets
    await client.close()


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("", GIT, "name"),
        ("a/b", GIT, "name"),
        ("x" * 65, GIT, "name"),
        ("slot", None, "value"),
        ("slot", pb.SecretValue(git_secret=pb.GitSecret(token="t")), "git_secret.username"),
        ("slot", pb.SecretValue(git_secret=pb.GitSecret(username="u")), "git_secret.token"),
        (
            "slot",
            pb.SecretValue(git_secret=pb.GitSecret(username="u", token="t" * 16_385)),
            "git_secret.token",
        ),
        (
            "slot",
            pb.SecretValue(git_secret=pb.GitSecret(username="u", token="line\n")),
            "git_secret.token",
        ),
        (
            "slot",
            pb.SecretValue(git_secret=pb.GitSecret(username="a:b", token="t")),
            "git_secret.username",
        ),
        (
            "slot",
            pb.SecretValue(registry_secret=pb.RegistrySecret(username="u")),
            "registry_secret.password",
        ),
        *(
            (
                "slot",
                pb.SecretValue(
                    registry_secret=pb.RegistrySecret(
                        username="u", password=CANARY, server_address=address
                    )
                ),
                "registry_secret.server_address",
            )
            for address in ("https://ghcr.io", "ghcr.io/v1", "a b", "host:0", "host:70000", "-a")
        ),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_stored(
    acme: Caller, name: str, value: pb.SecretValue | None, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await acme.create(name, value)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = raised.value.details() or ""
    assert field in details
    assert CANARY not in details
    assert not (await acme.list()).secrets


@pytest.mark.parametrize(
    "address", ["", "ghcr.io", "localhost:5000", "10.0.0.1:5000", "[::1]:5000", "A-b.example"]
)
async def test_server_addresses_that_are_good(acme: Caller, address: str) -> None:
    value = pb.SecretValue(
        registry_secret=pb.RegistrySecret(username="u", password="p", server_address=address)
    )
    await acme.create("slot", value)
    assert (await acme.get("slot")).value == value


async def test_absent_slot_is_not_found_and_a_stranger_s_looks_absent(
    channel: grpc.aio.Channel, acme: Caller
) -> None:
    rival = Caller(channel, "rival")
    await rival.create("slot", GIT)
    for name in ("slot", "never"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await acme.get(name)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await acme.delete("slot")
    assert (await rival.get("slot")).value == GIT


async def test_pages_hold_every_slot_once(acme: Caller) -> None:
    names = sorted(f"slot-{number}" for number in range(7))
    for name in reversed(names):
        await acme.create(name, GIT)
    seen: list[str] = []
    cursor = ""
    while True:
        page = await acme.list(3, cursor)
        seen += [slot.name for slot in page.secrets]
        cursor = page.next_cursor
        if not cursor:
            break
    assert seen == names


async def test_cursor_of_another_list_is_refused(acme: Caller) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await acme.list(1, "WyJhcHBzIiwieCJd")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cursor" in (raised.value.details() or "")


async def test_each_method_needs_its_own_scope(channel: grpc.aio.Channel) -> None:
    lists_only = Caller(channel, "acme:ListSecrets")
    assert not (await lists_only.list()).secrets
    for call in (
        lists_only.create("slot", GIT),
        lists_only.get("slot"),
        lists_only.delete("slot"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_sealed_store_is_unavailable(acme: Caller, fake: FakeSecretStore) -> None:
    fake.is_sealed = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await acme.get("slot")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_reading_a_value_is_audited_without_the_value(
    acme: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await acme.create("slot", GIT)
    await acme.get("slot")
    await acme.list()
    reads = [record for record in caplog.records if record.getMessage() == "secret read"]
    assert [record.name for record in reads] == ["ignite.audit"]
    about = reads[0].__dict__
    assert (about["subject"], about["organization"], about["slot"]) == ("sa-acme", "acme", "slot")
    assert not [record for record in caplog.records if CANARY in str(record.__dict__)]
