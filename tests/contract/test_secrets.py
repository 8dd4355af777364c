"""What every SecretStore and PlatformSecrets promises: fakes, OpenBao, Vault where Docker is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.fakes.platform import FakePlatformSecrets
from tests.fakes.secrets import FakeSecretStore

from ignite.domain.errors import InvalidArgument, SecretNotFound
from ignite.domain.identity import OrganizationName
from ignite.domain.secrets import GitSecret, RegistrySecret, SecretType
from ignite.ports.platform import DocumentChanged, PlatformSecrets
from ignite.ports.secrets import SecretStore
from ignite.secretstores.client import VaultClient
from ignite.secretstores.vault import VaultPlatformSecrets, VaultSecretStore
from ignite.settings import VaultSettings

GIT = GitSecret(username="me", token="first-token")
OTHER = GitSecret(username="you", token="second-token")
REGISTRY = RegistrySecret(username="me", password="p", server_address="ghcr.io")

FIXTURES = {
    "embedded": "openbao_server",
    "external": "external_openbao",
    "container": "vault_container",
}
KINDS = ["fake", *FIXTURES]


@asynccontextmanager
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[VaultClient]:
    settings: VaultSettings = request.getfixturevalue(FIXTURES[request.param])
    client = VaultClient(settings)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SecretStore]:
    if request.param == "fake":
        yield FakeSecretStore()
        return
    async with opened(request) as client:
        yield VaultSecretStore(client)


@pytest.fixture(params=KINDS)
async def platform(request: pytest.FixtureRequest) -> AsyncIterator[PlatformSecrets]:
    if request.param == "fake":
        yield FakePlatformSecrets()
        return
    async with opened(request) as client:
        yield VaultPlatformSecrets(client)


@pytest.fixture
def document(organization: OrganizationName) -> str:
    return f"document-of-{organization}"


async def test_slot_is_read_back_with_its_value(
    store: SecretStore, organization: OrganizationName
) -> None:
    for name, value in (("git", GIT), ("Registry_1", REGISTRY)):
        written = await store.put(organization, name, value)
        slot, read = await store.get(organization, name)
        assert read == value
        assert slot == written
        assert slot.created_at == slot.updated_at or slot.created_at < slot.updated_at
        assert slot.created_at.tzinfo is not None


async def test_absent_slot_is_not_found(store: SecretStore, organization: OrganizationName) -> None:
    with pytest.raises(SecretNotFound, match="absent"):
        await store.get(organization, "absent")


async def test_overwriting_keeps_created_at_and_may_change_the_type(
    store: SecretStore, organization: OrganizationName
) -> None:
    first = await store.put(organization, "slot", GIT)
    second = await store.put(organization, "slot", REGISTRY)
    assert second.type is SecretType.REGISTRY
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert (await store.get(organization, "slot"))[1] == REGISTRY
    assert await store.list(organization) == (second,)


async def test_list_names_every_slot_in_order_and_an_empty_organisation_has_none(
    store: SecretStore, organization: OrganizationName
) -> None:
    assert await store.list(organization) == ()
    for name in ("zeta", "alpha", "Beta"):
        await store.put(organization, name, GIT)
    slots = await store.list(organization)
    assert [slot.name for slot in slots] == ["Beta", "alpha", "zeta"]
    assert {slot.type for slot in slots} == {SecretType.GIT}


async def test_deleted_slot_is_gone_and_deleting_it_again_is_success(
    store: SecretStore, organization: OrganizationName
) -> None:
    first = await store.put(organization, "slot", GIT)
    await store.delete(organization, "slot")
    await store.delete(organization, "slot")
    assert await store.list(organization) == ()
    with pytest.raises(SecretNotFound):
        await store.get(organization, "slot")
    again = await store.put(organization, "slot", OTHER)
    assert again.created_at > first.created_at


async def test_organisations_do_not_see_each_other(
    store: SecretStore, organization: OrganizationName
) -> None:
    # One name begins with the other: a prefix must not open the neighbour's.
    other = OrganizationName(f"{organization}-b")
    await store.put(organization, "slot", GIT)
    assert await store.list(other) == ()
    with pytest.raises(SecretNotFound):
        await store.get(other, "slot")
    await store.delete(other, "slot")
    await store.put(other, "slot", OTHER)
    assert (await store.get(organization, "slot"))[1] == GIT


async def test_concurrent_writers_leave_one_whole_value(
    store: SecretStore, organization: OrganizationName
) -> None:
    values = [GitSecret(username=f"u{n}", token=f"t{n}") for n in range(4)]
    async with asyncio.TaskGroup() as group:
        for value in values:
            group.create_task(store.put(organization, "slot", value))
    slot, found = await store.get(organization, "slot")
    assert found in values
    assert await store.list(organization) == (slot,)


async def test_values_of_any_text_survive(
    store: SecretStore, organization: OrganizationName
) -> None:
    odd = GitSecret(username='a"b\\', token="ключ\n\t \u0000🔑" + "x" * 10_000)
    await store.put(organization, "odd", odd)
    assert (await store.get(organization, "odd"))[1] == odd


async def test_document_that_was_never_put_is_none(
    platform: PlatformSecrets, document: str
) -> None:
    assert await platform.get(document) is None


async def test_document_is_compare_and_set(platform: PlatformSecrets, document: str) -> None:
    first = await platform.put(document, {"a": "1"}, expected=0)
    with pytest.raises(DocumentChanged):
        await platform.put(document, {"a": "2"}, expected=0)
    second = await platform.put(document, {"a": "3"}, expected=first)
    with pytest.raises(DocumentChanged):
        await platform.put(document, {"a": "4"}, expected=first)
    found = await platform.get(document)
    assert found is not None
    assert (found.version, dict(found.value)) == (second, {"a": "3"})
    third = await platform.put(document, {"a": "5"}, expected=None)
    found = await platform.get(document)
    assert found is not None
    assert (found.version, dict(found.value)) == (third, {"a": "5"})


async def test_one_of_many_first_writers_wins(platform: PlatformSecrets, document: str) -> None:
    async def write(number: int) -> int | None:
        try:
            await platform.put(document, {"by": str(number)}, expected=0)
        except DocumentChanged:
            return None
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(number)) for number in range(4)]
    winners = [number for task in tasks if (number := task.result()) is not None]
    found = await platform.get(document)
    assert found is not None
    assert [found.value["by"]] == [str(number) for number in winners]


@pytest.mark.parametrize("name", ["../x", "a/b", "a*", "", "+", "x" * 65, "a\n"])
async def test_path_is_never_made_of_a_hostile_name(
    openbao_server: VaultSettings, name: str
) -> None:
    client = VaultClient(openbao_server)
    try:
        store = VaultSecretStore(client)
        with pytest.raises(InvalidArgument):
            await store.put(OrganizationName("acme"), name, GIT)
        with pytest.raises(InvalidArgument):
            await store.list(OrganizationName(name))
        with pytest.raises(InvalidArgument):
            await VaultPlatformSecrets(client).get(name)
    finally:
        await client.close()
