"""The contract of ports.accounts: the fake of the tests and Postgres."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.fakes.accounts import FakeAccountStore
from ulid import ULID

from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import Database
from ignite.domain.errors import AlreadyExists, NotFound
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    ServiceAccount,
    ServiceAccountId,
)
from ignite.ports.accounts import AccountStore
from ignite.settings import DatabaseSettings

ACME = OrganizationName("acme")


@pytest.fixture(params=["fake", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AccountStore]:
    if request.param == "fake":
        yield FakeAccountStore()
        return
    database = Database(request.getfixturevalue("database_url"), DatabaseSettings(pool_size=2))
    yield PostgresAccountStore(database)
    await database.close()


async def organization(store: AccountStore, name: str = "acme") -> Organization:
    made = await store.create_organization(
        OrganizationId(str(ULID())), OrganizationName(name), "text"
    )
    return made.organization


def account(owner: Organization, name: str = "ci") -> ServiceAccount:
    now = datetime.now(UTC)
    return ServiceAccount(
        id=ServiceAccountId(f"sa_{ULID()}"),
        organization=owner,
        name=name,
        description="text",
        roles=("ignite.admin", "ignite.app-viewer"),
        created_at=now,
        updated_at=now,
        last_used_at=None,
    )


class TestOrganizations:
    async def test_made_one_is_found(self, store: AccountStore) -> None:
        owner = await organization(store)
        record = await store.get_organization(ACME)
        assert (record.organization, record.description) == (owner, "text")
        assert record.created_at.tzinfo is not None

    async def test_name_is_taken_once(self, store: AccountStore) -> None:
        await organization(store)
        with pytest.raises(AlreadyExists):
            await organization(store)

    async def test_unknown_is_not_found(self, store: AccountStore) -> None:
        with pytest.raises(NotFound):
            await store.get_organization(ACME)
        with pytest.raises(NotFound):
            await store.delete_organization(ACME)

    async def test_listed_by_the_bytes_of_the_name(self, store: AccountStore) -> None:
        for name in ("b", "a-b", "ab", "a"):
            await organization(store, name)
        names = [one.organization.name for one in await store.list_organizations(after="", limit=9)]
        assert names == ["a", "a-b", "ab", "b"]
        page = await store.list_organizations(after="a-b", limit=1)
        assert [one.organization.name for one in page] == ["ab"]

    async def test_delete_takes_accounts_along(self, store: AccountStore) -> None:
        made = await store.create_service_account(account(await organization(store)), "hash")
        await store.delete_organization(ACME)
        assert await store.login(made.id) is None


class TestAccounts:
    async def test_made_one_is_found(self, store: AccountStore) -> None:
        given = account(await organization(store))
        made = await store.create_service_account(given, "hash")
        assert await store.get_service_account(given.id) == made
        same = replace(made, created_at=given.created_at, updated_at=given.updated_at)
        assert same == given

    async def test_unknown_organization_is_not_found(self, store: AccountStore) -> None:
        owner = Organization(id=OrganizationId(str(ULID())), name=ACME)
        with pytest.raises(NotFound):
            await store.create_service_account(account(owner), "hash")

    async def test_name_is_unique_in_its_organization(self, store: AccountStore) -> None:
        owner, other = await organization(store), await organization(store, "globex")
        await store.create_service_account(account(owner), "hash")
        with pytest.raises(AlreadyExists):
            await store.create_service_account(account(owner), "hash")
        await store.create_service_account(account(other), "hash")

    async def test_unknown_id_is_not_found(self, store: AccountStore) -> None:
        unknown = ServiceAccountId(f"sa_{ULID()}")
        calls: list[Callable[[], object]] = [
            lambda: store.get_service_account(unknown),
            lambda: store.delete_service_account(unknown),
            lambda: store.set_roles(unknown, ()),
            lambda: store.set_secret_hash(unknown, "hash"),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                await call()  # type: ignore[misc]
        assert await store.login(unknown) is None
        await store.touch(unknown)

    async def test_changes(self, store: AccountStore) -> None:
        made = await store.create_service_account(account(await organization(store)), "old")
        changed = await store.set_roles(made.id, ("ignite.model-user",))
        assert changed.roles == ("ignite.model-user",)
        assert changed.updated_at >= made.updated_at
        await store.set_secret_hash(made.id, "new")
        assert await store.login(made.id) == (await store.get_service_account(made.id), "new")
        assert (await store.set_roles(made.id, ())).roles == ()

    async def test_use_is_recorded(self, store: AccountStore) -> None:
        made = await store.create_service_account(account(await organization(store)), "hash")
        assert made.last_used_at is None
        await store.touch(made.id)
        used = (await store.get_service_account(made.id)).last_used_at
        assert used is not None
        assert used >= made.created_at

    async def test_listed_by_id_for_one_or_all(self, store: AccountStore) -> None:
        owner, other = await organization(store), await organization(store, "globex")
        made = [
            await store.create_service_account(account(owner, "one"), "hash"),
            await store.create_service_account(account(other, "two"), "hash"),
            await store.create_service_account(account(owner, "three"), "hash"),
        ]
        ids = sorted(one.id for one in made)
        everyone = await store.list_service_accounts(None, after="", limit=9)
        assert [one.id for one in everyone] == ids
        page = await store.list_service_accounts(None, after=ids[0], limit=1)
        assert [one.id for one in page] == ids[1:2]
        own = await store.list_service_accounts(ACME, after="", limit=9)
        assert {one.name for one in own} == {"one", "three"}
