"""Tokens: by client credentials, or issued by an operator."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from ignite.domain.errors import InvalidArgument, Unauthenticated
from ignite.domain.identity import (
    ServiceAccount,
    ServiceAccountId,
    check_organization_name,
    scopes_of,
)
from ignite.ports.accounts import AccountStore
from ignite.ports.identity import AccessToken, SecretHasher, TokenIssuer
from ignite.services.admin.accounts import ServiceAccounts, check_roles, is_account_id
from ignite.services.admin.logins import FailedLogins

logger = logging.getLogger(__name__)

MAX_SUBJECT_CHARS = 128
# A write a login would be many; this is how exact `last_used_at` is.
TOUCH_AFTER = timedelta(minutes=1)


class ClientCredentials:
    """The OAuth grant: a service account's id and secret for a token."""

    def __init__(
        self,
        store: AccountStore,
        hasher: SecretHasher,
        issuer: TokenIssuer,
        failures: FailedLogins,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._issuer = issuer
        self._failures = failures
        self._clock = clock
        self._decoy = ""

    async def grant(self, client_id: str, client_secret: str) -> AccessToken:
        """Return a token with the scopes of the account's roles.

        Raises Unauthenticated without telling what was wrong, ResourceExhausted with
        `retry_after_secs` after too many failures, Unavailable without the store or keys.
        """
        account = await self._log_in(client_id, client_secret)
        token = self._issuer.issue(account.id, account.organization, scopes_of(account.roles))
        used = account.last_used_at
        if used is None or self._clock() - used >= TOUCH_AFTER:
            await self._store.touch(account.id)
        return token

    async def _log_in(self, client_id: str, client_secret: str) -> ServiceAccount:
        found = None
        if is_account_id(client_id) and "\0" not in client_secret:
            found = await self._store.login(ServiceAccountId(client_id))
        if found is None:
            # As slow as a wrong secret, so that ids cannot be told from the time it takes.
            self._failures.attempt(None)
            self._decoy = self._decoy or await self._hasher.hash("decoy")
            await self._hasher.verify(client_secret, self._decoy)
            raise _refusal()
        account, hashed = found
        if self._hasher.remembers(client_secret, hashed):
            return account
        self._failures.attempt(account.id)
        if not await self._hasher.verify(client_secret, hashed):
            raise _refusal()
        self._failures.succeeded(account.id)
        return account


class OperatorTokens:
    """Tokens that an operator issues."""

    def __init__(self, accounts: ServiceAccounts, store: AccountStore, issuer: TokenIssuer) -> None:
        self._accounts = accounts
        self._store = store
        self._issuer = issuer

    async def for_account(self, account_id: str, ttl_secs: int) -> AccessToken:
        """Issue in the name of a service account; raises NotFound."""
        account = await self._accounts.get(account_id)
        logger.info("token issued by an operator", extra={"subject": account.id})
        return self._issuer.issue(
            account.id,
            account.organization,
            scopes_of(account.roles),
            ttl_secs=ttl_secs or None,
        )

    async def for_development(
        self, organization: str, name: str, roles: Sequence[str], ttl_secs: int
    ) -> AccessToken:
        """Issue for a subject that exists only in the token; raises InvalidArgument, NotFound."""
        if not 0 < len(name) <= MAX_SUBJECT_CHARS or not name.isprintable():
            raise InvalidArgument(
                f"must be 1 to {MAX_SUBJECT_CHARS} printable characters", field="development.name"
            )
        owner = check_organization_name(organization, field="development.organization_name")
        granted = check_roles(roles)
        record = await self._store.get_organization(owner)
        logger.info(
            "token issued by an operator",
            extra={"subject": f"dev:{name}", "organization": owner, "roles": list(granted)},
        )
        return self._issuer.issue(
            f"dev:{name}",
            record.organization,
            scopes_of(granted),
            ttl_secs=ttl_secs or None,
        )


def _refusal() -> Unauthenticated:
    return Unauthenticated("unknown client or wrong secret")
