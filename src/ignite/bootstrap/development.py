"""A newcomer's way in, embedded: organisations, one account, and a token that is kept fresh.

Made at the first start and left in the keys folder (0600) for the supervisor, which puts it into
`connection.json`. An operator who deletes the account gets a new one at the next start.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from ulid import ULID

from ignite.domain.errors import AlreadyExists, IgniteError, NotFound
from ignite.domain.identity import (
    PUBLIC_ORGANIZATION,
    Organization,
    OrganizationId,
    OrganizationName,
    ServiceAccount,
    ServiceAccountId,
    scopes_of,
)
from ignite.layout import Layout
from ignite.ports.accounts import AccountStore
from ignite.ports.identity import SecretHasher, TokenIssuer
from ignite.privileges import write_private

logger = logging.getLogger(__name__)

ROLES = ("ignite.app-developer", "ignite.model-user")
_NAME = "development"
_RENEW_PART = 0.4
_RETRY_SECS = 1.0


class DevelopmentAccess:
    """Keeps `keys/development.json` usable. A Component."""

    name = "development-access"

    def __init__(
        self,
        layout: Layout,
        accounts: AccountStore,
        hasher: SecretHasher,
        issuer: TokenIssuer,
        organization: OrganizationName,
    ) -> None:
        self._file = layout.keys / "development.json"
        self._accounts = accounts
        self._hasher = hasher
        self._issuer = issuer
        self._organization = organization

    async def run(self, ready: Callable[[], None]) -> None:
        """Make what is missing, then renew the token until cancelled."""
        while True:
            try:
                account, secret = await self._account()
                break
            except IgniteError as error:
                logger.warning("development access has to wait", extra={"error": str(error)})
                await asyncio.sleep(_RETRY_SECS)
        while True:
            token = self._issuer.issue(account.id, account.organization, scopes_of(account.roles))
            content = {
                "organization": account.organization.name,
                "client_id": account.id,
                "client_secret": secret,
                "token": token.token,
            }
            await asyncio.to_thread(write_private, self._file, json.dumps(content).encode())
            ready()
            await asyncio.sleep(token.expires_in_secs * _RENEW_PART)

    async def _account(self) -> tuple[ServiceAccount, str]:
        await self._organization_named(PUBLIC_ORGANIZATION)
        organization = await self._organization_named(self._organization)
        kept = self._kept()
        if kept is not None:
            account_id, secret = kept
            try:
                account = await self._accounts.get_service_account(account_id)
            except NotFound:
                logger.warning("the development account is gone; making another one")
            else:
                if account.organization == organization:
                    return account, secret
        return await self._new_account(organization)

    async def _new_account(self, organization: Organization) -> tuple[ServiceAccount, str]:
        secret = secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        account = ServiceAccount(
            id=ServiceAccountId(f"sa_{ULID()}".lower()),
            organization=organization,
            name=f"{_NAME}-{secrets.token_hex(3)}",
            description="Made by `ignite serve` for the first steps on this machine.",
            roles=ROLES,
            created_at=now,
            updated_at=now,
            last_used_at=None,
        )
        return await self._accounts.create_service_account(
            account, await self._hasher.hash(secret)
        ), secret

    async def _organization_named(self, name: OrganizationName) -> Organization:
        try:
            return (await self._accounts.get_organization(name)).organization
        except NotFound:
            pass
        try:
            made = await self._accounts.create_organization(
                OrganizationId(f"org_{ULID()}".lower()), name, ""
            )
        except AlreadyExists:
            made = await self._accounts.get_organization(name)
        return made.organization

    def _kept(self) -> tuple[ServiceAccountId, str] | None:
        try:
            found = json.loads(self._file.read_text())
            return ServiceAccountId(found["client_id"]), str(found["client_secret"])
        except (OSError, ValueError, KeyError):
            return None
