"""Service accounts: a name, roles, and a secret that is shown once and kept as a hash."""

import logging
import re
import secrets as random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ulid import ULID

from ignite.domain.errors import InvalidArgument, NotFound
from ignite.domain.identity import (
    ROLES,
    OrganizationName,
    ServiceAccount,
    ServiceAccountId,
    check_organization_name,
)
from ignite.ports.accounts import AccountStore
from ignite.ports.identity import SecretHasher
from ignite.services.admin.organizations import check_description
from ignite.settings import LimitSettings

logger = logging.getLogger(__name__)

SECRET_BYTES = 32

_ID = re.compile(r"sa_[0-9A-HJKMNP-TV-Z]{26}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """An account and its secret in clear, for the one answer that shows it."""

    account: ServiceAccount
    secret: str = field(repr=False)


def is_account_id(text: str) -> bool:
    """Tell whether `text` has the form of an id of ours."""
    return _ID.fullmatch(text) is not None


class ServiceAccounts:
    """The use cases of service accounts."""

    def __init__(
        self,
        store: AccountStore,
        hasher: SecretHasher,
        limits: LimitSettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._limits = limits
        self._clock = clock

    async def create(
        self, organization: str, name: str, description: str, roles: Sequence[str]
    ) -> NewSecret:
        """Add an account; raises InvalidArgument, NotFound or AlreadyExists."""
        owner = _organization(organization)
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                "must be 1 to 63 lowercase letters, digits, '.', '_' or '-', starting and ending "
                "with a letter or digit",
                field="name",
            )
        check_description(description, self._limits)
        granted = check_roles(roles)
        record = await self._store.get_organization(owner)
        secret, hashed = await self._new_secret()
        now = self._clock()
        account = ServiceAccount(
            id=ServiceAccountId(f"sa_{ULID()}"),
            organization=record.organization,
            name=name,
            description=description,
            roles=granted,
            created_at=now,
            updated_at=now,
            last_used_at=None,
        )
        stored = await self._store.create_service_account(account, hashed)
        logger.info("service account made", extra=_facts(stored))
        return NewSecret(account=stored, secret=secret)

    async def get(self, account_id: str) -> ServiceAccount:
        """Return it; raises NotFound."""
        return await self._store.get_service_account(_id(account_id))

    async def list(
        self, organization: str, *, after: str, limit: int
    ) -> tuple[ServiceAccount, ...]:
        """Return up to `limit` behind the id `after`; an empty organization means all."""
        owner = _organization(organization) if organization else None
        return await self._store.list_service_accounts(owner, after=after, limit=limit)

    async def delete(self, account_id: str) -> None:
        """Remove it; its tokens end by themselves. Raises NotFound."""
        checked = _id(account_id)
        await self._store.delete_service_account(checked)
        logger.info("service account deleted", extra={"account": checked})

    async def rotate_secret(self, account_id: str) -> NewSecret:
        """Replace the secret; the old one stops to work at once. Raises NotFound."""
        checked = _id(account_id)
        await self._store.get_service_account(checked)
        secret, hashed = await self._new_secret()
        account = await self._store.set_secret_hash(checked, hashed)
        logger.info("secret of a service account replaced", extra=_facts(account))
        return NewSecret(account=account, secret=secret)

    async def set_roles(self, account_id: str, roles: Sequence[str]) -> ServiceAccount:
        """Replace all roles; raises InvalidArgument or NotFound."""
        account = await self._store.set_roles(_id(account_id), check_roles(roles))
        logger.info("roles of a service account set", extra=_facts(account))
        return account

    async def _new_secret(self) -> tuple[str, str]:
        secret = random.token_urlsafe(SECRET_BYTES)
        return secret, await self._hasher.hash(secret)


def check_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """Return the roles once each, in their order; refuse unknown ones."""
    for role in roles:
        if role not in ROLES:
            raise InvalidArgument(
                f"{role[:80]!r} is no role; there are {', '.join(sorted(ROLES))}", field="roles"
            )
    return tuple(dict.fromkeys(roles))


def _facts(account: ServiceAccount) -> dict[str, object]:
    return {
        "account": account.id,
        "organization": account.organization.name,
        "roles": list(account.roles),
    }


def _organization(name: str) -> OrganizationName:
    return check_organization_name(name, field="organization_name")


def _id(text: str) -> ServiceAccountId:
    if not is_account_id(text):
        raise NotFound("no such service account", reason="ServiceAccountNotFound")
    return ServiceAccountId(text)
