"""Organisations: made, listed and removed by operators."""

import logging

from ulid import ULID

from ignite.domain.errors import AlreadyExists, InvalidArgument, NotFound
from ignite.domain.identity import (
    OrganizationId,
    OrganizationName,
    OrganizationRecord,
    check_organization_name,
)
from ignite.ports.accounts import AccountStore
from ignite.settings import LimitSettings

logger = logging.getLogger(__name__)


class Organizations:
    """The use cases of organisations."""

    def __init__(self, store: AccountStore, limits: LimitSettings) -> None:
        self._store = store
        self._limits = limits

    async def create(self, name: str, description: str) -> OrganizationRecord:
        """Add an organisation; raises InvalidArgument or AlreadyExists."""
        checked = check_organization_name(name)
        check_description(description, self._limits)
        record = await self._store.create_organization(
            OrganizationId(str(ULID())), checked, description
        )
        logger.info("organization made", extra={"organization": checked})
        return record

    async def ensure(self, name: str) -> OrganizationRecord:
        """Return the organisation, made where it is missing; for the first start."""
        try:
            return await self.get(name)
        except NotFound:
            pass
        try:
            return await self.create(name, "")
        except AlreadyExists:
            return await self.get(name)

    async def get(self, name: str) -> OrganizationRecord:
        """Return it; raises NotFound."""
        return await self._store.get_organization(_named(name))

    async def list(self, *, after: str, limit: int) -> tuple[OrganizationRecord, ...]:
        """Return up to `limit` behind the name `after`."""
        return await self._store.list_organizations(after=after, limit=limit)

    async def delete(self, name: str) -> None:
        """Remove it with its accounts; raises NotFound, FailedPrecondition while it has apps."""
        checked = _named(name)
        await self._store.delete_organization(checked)
        logger.info("organization deleted", extra={"organization": checked})


def check_description(description: str, limits: LimitSettings) -> None:
    """Refuse a description over the bound, or one that cannot be stored."""
    if len(description) > limits.description_chars or "\0" in description:
        raise InvalidArgument(
            f"must be at most {limits.description_chars} characters without NUL",
            field="description",
        )


def _named(name: str) -> OrganizationName:
    return check_organization_name(name, field="organization_name")
