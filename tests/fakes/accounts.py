"""A fake of ports.accounts: organisations and accounts in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ignite.domain.errors import AlreadyExists, FailedPrecondition, NotFound
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    OrganizationRecord,
    ServiceAccount,
    ServiceAccountId,
)


class FakeAccountStore:
    """Keeps accounts in dicts. Names in `with_apps` cannot be deleted."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._organizations: dict[str, OrganizationRecord] = {}
        self._accounts: dict[str, ServiceAccount] = {}
        self.hashes: dict[str, str] = {}
        self.with_apps: set[str] = set()
        self.logins = 0
        self.touches = 0

    async def create_organization(
        self, organization_id: OrganizationId, name: OrganizationName, description: str
    ) -> OrganizationRecord:
        if name in self._organizations:
            raise AlreadyExists(f"organization {name!r} exists")
        record = OrganizationRecord(
            organization=Organization(id=organization_id, name=name),
            description=description,
            created_at=self._clock(),
        )
        self._organizations[name] = record
        return record

    async def get_organization(self, name: OrganizationName) -> OrganizationRecord:
        if name not in self._organizations:
            raise NotFound(f"no organization {name!r}")
        return self._organizations[name]

    async def list_organizations(self, *, after: str, limit: int) -> tuple[OrganizationRecord, ...]:
        names = sorted(name for name in self._organizations if name > after)
        return tuple(self._organizations[name] for name in names[:limit])

    async def delete_organization(self, name: OrganizationName) -> None:
        await self.get_organization(name)
        if name in self.with_apps:
            raise FailedPrecondition("it has apps", reason="OrganizationNotEmpty")
        del self._organizations[name]
        for account in list(self._accounts.values()):
            if account.organization.name == name:
                await self.delete_service_account(account.id)

    async def create_service_account(
        self, account: ServiceAccount, secret_hash: str
    ) -> ServiceAccount:
        owner = account.organization.name
        await self.get_organization(owner)
        for one in self._accounts.values():
            if (one.organization.name, one.name) == (owner, account.name):
                raise AlreadyExists(f"service account {account.name!r} exists")
        self._accounts[account.id] = account
        self.hashes[account.id] = secret_hash
        return account

    async def get_service_account(self, account_id: ServiceAccountId) -> ServiceAccount:
        if account_id not in self._accounts:
            raise NotFound("no such service account")
        return self._accounts[account_id]

    async def list_service_accounts(
        self, organization: OrganizationName | None, *, after: str, limit: int
    ) -> tuple[ServiceAccount, ...]:
        found = [
            account
            for key, account in sorted(self._accounts.items())
            if key > after and organization in (None, account.organization.name)
        ]
        return tuple(found[:limit])

    async def delete_service_account(self, account_id: ServiceAccountId) -> None:
        await self.get_service_account(account_id)
        del self._accounts[account_id], self.hashes[account_id]

    async def set_roles(
        self, account_id: ServiceAccountId, roles: tuple[str, ...]
    ) -> ServiceAccount:
        return await self._change(account_id, roles=roles)

    async def set_secret_hash(
        self, account_id: ServiceAccountId, secret_hash: str
    ) -> ServiceAccount:
        account = await self._change(account_id)
        self.hashes[account_id] = secret_hash
        return account

    async def login(self, account_id: ServiceAccountId) -> tuple[ServiceAccount, str] | None:
        self.logins += 1
        account = self._accounts.get(account_id)
        return None if account is None else (account, self.hashes[account_id])

    async def touch(self, account_id: ServiceAccountId) -> None:
        self.touches += 1
        if account_id in self._accounts:
            account = self._accounts[account_id]
            self._accounts[account_id] = replace(account, last_used_at=self._clock())

    async def _change(self, account_id: ServiceAccountId, **changes: object) -> ServiceAccount:
        account = await self.get_service_account(account_id)
        changed = replace(account, updated_at=self._clock(), **changes)  # type: ignore[arg-type]
        self._accounts[account_id] = changed
        return changed
