"""A newcomer's way in, embedded: organisations, one account, and a token that is kept fresh.

Made at the first start and left in the keys folder (0600) for the supervisor, which puts it into
`connection.json`. An operator who deletes the account gets a new one at the next start.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable

from ignite.domain.errors import IgniteError, NotFound
from ignite.domain.identity import PUBLIC_ORGANIZATION, ServiceAccount, scopes_of
from ignite.layout import Layout
from ignite.ports.identity import TokenIssuer
from ignite.privileges import write_private
from ignite.services.admin.accounts import ServiceAccounts
from ignite.services.admin.organizations import Organizations

logger = logging.getLogger(__name__)

ROLES = ("ignite.app-developer", "ignite.model-user")
_NAME = "development"
_DESCRIPTION = "Made by `ignite serve` for the first steps on this machine."
_RENEW_PART = 0.4
_RETRY_SECS = 1.0


class DevelopmentAccess:
    """Keeps `keys/development.json` usable. A Component."""

    name = "development-access"

    def __init__(
        self,
        layout: Layout,
        organizations: Organizations,
        accounts: ServiceAccounts,
        issuer: TokenIssuer,
        organization: str,
    ) -> None:
        self._file = layout.keys / "development.json"
        self._organizations = organizations
        self._accounts = accounts
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
        await self._organizations.ensure(PUBLIC_ORGANIZATION)
        organization = (await self._organizations.ensure(self._organization)).organization
        kept = self._kept()
        if kept is not None:
            try:
                account = await self._accounts.get(kept[0])
            except NotFound:
                logger.warning("the development account is gone; making another one")
            else:
                if account.organization == organization:
                    return account, kept[1]
        made = await self._accounts.create(
            organization.name, f"{_NAME}-{secrets.token_hex(3)}", _DESCRIPTION, ROLES
        )
        return made.account, made.secret

    def _kept(self) -> tuple[str, str] | None:
        try:
            found = json.loads(self._file.read_text())
            return str(found["client_id"]), str(found["client_secret"])
        except (OSError, ValueError, KeyError):
            return None
