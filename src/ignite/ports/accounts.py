"""The port to organisations and service accounts, the truth of the built-in identity.

Every call is atomic by itself, so a caller needs no transaction around it. Secrets arrive hashed;
the store never sees one in clear.
"""

from typing import Protocol

from ignite.domain.identity import (
    OrganizationId,
    OrganizationName,
    OrganizationRecord,
    ServiceAccount,
    ServiceAccountId,
)


class AccountStore(Protocol):
    """Keeps organisations and their service accounts."""

    async def create_organization(
        self, organization_id: OrganizationId, name: OrganizationName, description: str
    ) -> OrganizationRecord:
        """Add an organisation; raises AlreadyExists when the name is taken."""

    async def get_organization(self, name: OrganizationName) -> OrganizationRecord:
        """Return it; raises NotFound."""

    async def list_organizations(self, *, after: str, limit: int) -> tuple[OrganizationRecord, ...]:
        """Return up to `limit` organisations whose name sorts behind `after`, by name.

        Names sort by their bytes, whatever the locale of the database.
        """

    async def delete_organization(self, name: OrganizationName) -> None:
        """Remove it with its service accounts.

        Raises NotFound, or FailedPrecondition (reason OrganizationNotEmpty) while it has apps.
        """

    async def create_service_account(
        self, account: ServiceAccount, secret_hash: str
    ) -> ServiceAccount:
        """Add `account`, its times set by the store.

        Raises NotFound for an unknown organisation, AlreadyExists when it has the name already.
        """

    async def get_service_account(self, account_id: ServiceAccountId) -> ServiceAccount:
        """Return it; raises NotFound."""

    async def list_service_accounts(
        self, organization: OrganizationName | None, *, after: str, limit: int
    ) -> tuple[ServiceAccount, ...]:
        """Return up to `limit` accounts whose id sorts behind `after`, by id; None means all."""

    async def delete_service_account(self, account_id: ServiceAccountId) -> None:
        """Remove it; raises NotFound."""

    async def set_roles(
        self, account_id: ServiceAccountId, roles: tuple[str, ...]
    ) -> ServiceAccount:
        """Replace all roles; raises NotFound."""

    async def set_secret_hash(
        self, account_id: ServiceAccountId, secret_hash: str
    ) -> ServiceAccount:
        """Replace the secret; raises NotFound."""

    async def login(self, account_id: ServiceAccountId) -> tuple[ServiceAccount, str] | None:
        """Return the account and its secret hash, None when there is no such account."""

    async def touch(self, account_id: ServiceAccountId) -> None:
        """Record that the account was used now; an absent one is success."""
