"""Organisations and service accounts: `ports.accounts` on Postgres."""

from asyncpg import IntegrityConstraintViolationError
from sqlalchemy import Select, delete, func, insert, select, update

from ignite.db import tables
from ignite.db.connection import Row
from ignite.db.database import Database
from ignite.domain.errors import AlreadyExists, FailedPrecondition, NotFound
from ignite.domain.identity import (
    Organization,
    OrganizationId,
    OrganizationName,
    OrganizationRecord,
    ServiceAccount,
    ServiceAccountId,
)

_organizations = tables.organizations
_accounts = tables.service_accounts


class PostgresAccountStore:
    """Keeps accounts; every call is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_organization(
        self, organization_id: OrganizationId, name: OrganizationName, description: str
    ) -> OrganizationRecord:
        """Add an organisation; raises AlreadyExists."""
        try:
            async with self._database.transaction() as tx:
                row = await tx.connection.execute(
                    insert(_organizations)
                    .values(id=organization_id, name=name, description=description)
                    .returning(_organizations)
                )
                return _organization_of(row.one())
        except IntegrityConstraintViolationError as error:
            raise AlreadyExists(
                f"organization {name!r} exists", reason="OrganizationExists"
            ) from error

    async def get_organization(self, name: OrganizationName) -> OrganizationRecord:
        """Return it; raises NotFound."""
        async with self._database.reading() as tx:
            row = await tx.connection.execute(
                select(_organizations).where(_organizations.c.name == name)
            )
            found = row.one_or_none()
        if found is None:
            raise _no_organization(name)
        return _organization_of(found)

    async def list_organizations(self, *, after: str, limit: int) -> tuple[OrganizationRecord, ...]:
        """Return up to `limit` organisations behind `after`, by name."""
        async with self._database.reading() as tx:
            rows = await tx.connection.execute(
                select(_organizations)
                .where(_organizations.c.name > after)
                .order_by(_organizations.c.name)
                .limit(limit)
            )
            return tuple(_organization_of(row) for row in rows)

    async def delete_organization(self, name: OrganizationName) -> None:
        """Remove it with its accounts; refuses while it has apps."""
        try:
            async with self._database.transaction() as tx:
                gone = await tx.connection.execute(
                    delete(_organizations)
                    .where(_organizations.c.name == name)
                    .returning(_organizations.c.id)
                )
                if gone.scalar_one_or_none() is None:
                    raise _no_organization(name)
        except IntegrityConstraintViolationError as error:
            raise FailedPrecondition(
                f"organization {name!r} still has apps", reason="OrganizationNotEmpty"
            ) from error

    async def create_service_account(
        self, account: ServiceAccount, secret_hash: str
    ) -> ServiceAccount:
        """Add an account; raises NotFound or AlreadyExists."""
        try:
            async with self._database.transaction() as tx:
                await tx.connection.execute(
                    insert(_accounts).values(
                        id=account.id,
                        organization_id=account.organization.id,
                        name=account.name,
                        description=account.description,
                        roles=list(account.roles),
                        secret_hash=secret_hash,
                    )
                )
                found = await tx.connection.execute(_query().where(_accounts.c.id == account.id))
                return _account_of(found.one())
        except IntegrityConstraintViolationError as error:
            if "fk_service_accounts" in str(error.constraint_name):
                raise _no_organization(account.organization.name) from error
            raise AlreadyExists(
                f"service account {account.name!r} exists", reason="ServiceAccountExists"
            ) from error

    async def get_service_account(self, account_id: ServiceAccountId) -> ServiceAccount:
        """Return it; raises NotFound."""
        found = await self.login(account_id)
        if found is None:
            raise _no_account(account_id)
        return found[0]

    async def list_service_accounts(
        self, organization: OrganizationName | None, *, after: str, limit: int
    ) -> tuple[ServiceAccount, ...]:
        """Return up to `limit` accounts behind `after`, by id."""
        query = _query().where(_accounts.c.id > after).order_by(_accounts.c.id).limit(limit)
        if organization is not None:
            query = query.where(_organizations.c.name == organization)
        async with self._database.reading() as tx:
            rows = await tx.connection.execute(query)
            return tuple(_account_of(row) for row in rows)

    async def delete_service_account(self, account_id: ServiceAccountId) -> None:
        """Remove it; raises NotFound."""
        async with self._database.transaction() as tx:
            gone = await tx.connection.execute(
                delete(_accounts).where(_accounts.c.id == account_id).returning(_accounts.c.id)
            )
            if gone.scalar_one_or_none() is None:
                raise _no_account(account_id)

    async def set_roles(
        self, account_id: ServiceAccountId, roles: tuple[str, ...]
    ) -> ServiceAccount:
        """Replace all roles; raises NotFound."""
        return await self._change(account_id, {"roles": list(roles)})

    async def set_secret_hash(
        self, account_id: ServiceAccountId, secret_hash: str
    ) -> ServiceAccount:
        """Replace the secret; raises NotFound."""
        return await self._change(account_id, {"secret_hash": secret_hash})

    async def login(self, account_id: ServiceAccountId) -> tuple[ServiceAccount, str] | None:
        """Return the account and its secret hash, or None."""
        async with self._database.reading() as tx:
            row = await tx.connection.execute(_query().where(_accounts.c.id == account_id))
            found = row.one_or_none()
        return (_account_of(found), found["secret_hash"]) if found else None

    async def touch(self, account_id: ServiceAccountId) -> None:
        """Record that the account was used now."""
        async with self._database.transaction() as tx:
            await tx.connection.execute(
                update(_accounts)
                .where(_accounts.c.id == account_id)
                .values(last_used_at=func.now())
            )

    async def _change(
        self, account_id: ServiceAccountId, columns: dict[str, object]
    ) -> ServiceAccount:
        async with self._database.transaction() as tx:
            await tx.connection.execute(
                update(_accounts)
                .where(_accounts.c.id == account_id)
                .values(**columns, updated_at=func.now())
            )
            row = await tx.connection.execute(_query().where(_accounts.c.id == account_id))
            found = row.one_or_none()
        if found is None:
            raise _no_account(account_id)
        return _account_of(found)


def _query() -> "Select[tuple[object, ...]]":
    return select(_accounts, _organizations.c.name.label("organization_name")).join(
        _organizations, _organizations.c.id == _accounts.c.organization_id
    )


def _organization_of(row: Row) -> OrganizationRecord:
    return OrganizationRecord(
        organization=Organization(id=row["id"], name=row["name"]),
        description=row["description"],
        created_at=row["created_at"],
    )


def _account_of(row: Row) -> ServiceAccount:
    return ServiceAccount(
        id=row["id"],
        organization=Organization(id=row["organization_id"], name=row["organization_name"]),
        name=row["name"],
        description=row["description"],
        roles=tuple(row["roles"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_used_at=row["last_used_at"],
    )


def _no_organization(name: str) -> NotFound:
    return NotFound(f"organization {name!r} does not exist", reason="OrganizationNotFound")


def _no_account(account_id: str) -> NotFound:
    return NotFound(
        f"service account {account_id!r} does not exist", reason="ServiceAccountNotFound"
    )
