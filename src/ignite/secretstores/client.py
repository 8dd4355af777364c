"""Talking to Vault or OpenBao: logging in, tokens of single organisations, errors as ours.

hvac blocks, so every call runs in a thread of a small pool of its own; a call that waits for a
thread is bounded like one that waits for the store. Tokens are renewed by logging in again well
before they end, and once when the store refuses one, so the store may be restarted, restored or
unsealed under us.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hvac
import requests
from hvac import exceptions as vault

from ignite.domain.errors import Unavailable
from ignite.domain.identity import OrganizationName
from ignite.secretstores import policies
from ignite.secretstores.unix import UNIX_BASE, unix_session
from ignite.settings import VaultSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 8
_ORGANIZATION_TTL_SECS = 600
_RENEW_AT = 0.5
_UNIX = "unix://"
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """A token of the store, and when to take another one (monotonic seconds)."""

    text: str = field(repr=False)
    renew_at: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self.renew_at


class _Adapter(hvac.adapters.JSONAdapter):  # type: ignore[misc]  # hvac has no types
    """Answers with a dict or an empty success; anything else is a store that is not itself."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().request(*args, **kwargs)
        if isinstance(answer, requests.Response) and answer.status_code != _NO_CONTENT:
            # A node that is not active yet sends us on to the one that is: itself, soon.
            raise vault.VaultDown(f"answered {answer.status_code} without a document")
        return answer


class VaultClient:
    """One store, seen by the platform and by single organisations. Safe for many tasks.

    Raises Unavailable (with a reason word) for whatever keeps the store from answering.
    """

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vault")
        self._base = settings.address.rstrip("/")
        self._is_local = settings.address.startswith(_UNIX)
        if self._is_local:
            self._base = UNIX_BASE
            self._session = unix_session(
                Path(settings.address.removeprefix(_UNIX)), connections=_THREADS
            )
        else:
            self._session = _https_session(settings)
        self._platform: _Token | None = None
        self._organizations: dict[OrganizationName, _Token] = {}
        self._minting = asyncio.Lock()

    @property
    def mount(self) -> str:
        """Return the KV mount."""
        return self._settings.mount

    async def as_platform(self, work: Callable[[hvac.Client], T]) -> T:
        """Run `work` in a thread with the platform's own token."""
        return await self._with(self._platform_token, work)

    async def as_organization(
        self, organization: OrganizationName, work: Callable[[hvac.Client], T]
    ) -> T:
        """Run `work` in a thread with a token that opens that organisation's slots alone."""

        async def token(*, fresh: bool) -> str:
            return await self._organization_token(organization, fresh=fresh)

        return await self._with(token, work)

    async def close(self) -> None:
        """Close connections; calls under way end by their timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    async def _with(self, token: Any, work: Callable[[hvac.Client], T]) -> T:
        with _as_unavailable():
            async with asyncio.timeout(self._settings.timeout_secs):
                try:
                    return await self._in_thread(await token(fresh=False), work)
                except (vault.Forbidden, vault.Unauthorized):
                    # The token may have ended before its time: a restored or replaced store.
                    return await self._in_thread(await token(fresh=True), work)

    async def _platform_token(self, *, fresh: bool) -> str:
        if self._settings.token.get_secret_value():
            return self._settings.token.get_secret_value()
        known = self._platform
        if known and known.is_fresh and not fresh:
            return known.text
        async with self._minting:
            if self._platform is not known and self._platform:
                return self._platform.text
            self._platform = await self._in_thread("", self._log_in)
            self._organizations.clear()
            return self._platform.text

    async def _organization_token(self, organization: OrganizationName, *, fresh: bool) -> str:
        known = self._organizations.get(organization)
        if known and known.is_fresh and not fresh:
            return known.text
        parent = await self._platform_token(fresh=fresh)
        async with self._minting:
            current = self._organizations.get(organization)
            if current is not known and current:
                return current.text

            def mint(client: hvac.Client) -> _Token:
                return self._mint(client, organization)

            token = await self._in_thread(parent, mint)
            self._organizations = {
                name: other for name, other in self._organizations.items() if other.is_fresh
            } | {organization: token}
            return token.text

    def _log_in(self, client: hvac.Client) -> _Token:
        answer = client.auth.approle.login(
            role_id=self._settings.role_id,
            secret_id=self._settings.secret_id.get_secret_value(),
            use_token=False,
        )
        return _token(answer)

    def _mint(self, client: hvac.Client, organization: OrganizationName) -> _Token:
        name = policies.organization_policy_name(organization)
        wanted = policies.organization_policy(self.mount, organization)
        if _policy(client, name) != wanted:
            client.sys.create_or_update_acl_policy(name, wanted)
            logger.info("wrote a policy of the secret store", extra={"policy": name})
        answer = client.auth.token.create(
            role_name=policies.TOKEN_ROLE,
            policies=[name],
            ttl=f"{_ORGANIZATION_TTL_SECS}s",
            type="batch",
            renewable=False,
        )
        return _token(answer)

    async def _in_thread(self, token: str, work: Callable[[hvac.Client], T]) -> T:
        client = hvac.Client(
            url=self._base,
            token=token or None,
            session=self._session,
            timeout=self._settings.timeout_secs,
            adapter=_Adapter,
            allow_redirects=not self._is_local,
        )
        # hvac takes a token from the environment or a file in the home where none is given.
        client.token = token or None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, client)


def _https_session(settings: VaultSettings) -> requests.Session:
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(
        pool_connections=1, pool_maxsize=_THREADS, pool_block=True
    )
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    if settings.ca_file:
        session.verify = str(settings.ca_file)
    return session


def _policy(client: hvac.Client, name: str) -> str:
    try:
        return str(client.sys.read_acl_policy(name)["data"]["policy"])
    except vault.InvalidPath:
        return ""


def _token(answer: dict[str, Any]) -> _Token:
    granted = answer["auth"]
    lease_secs = float(granted["lease_duration"] or _ORGANIZATION_TTL_SECS)
    return _Token(
        text=str(granted["client_token"]), renew_at=time.monotonic() + lease_secs * _RENEW_AT
    )


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Turn whatever keeps the store from answering into Unavailable; nothing of it is shown."""
    try:
        yield
    except vault.VaultDown as error:
        raise _unavailable("is sealed or not active", "SecretStoreSealed") from error
    except (vault.Forbidden, vault.Unauthorized) as error:
        raise _unavailable("refuses our credentials", "SecretStoreRefused") from error
    except (TimeoutError, requests.Timeout) as error:
        raise _unavailable("does not answer in time", "SecretStoreTimeout") from error
    except requests.RequestException as error:
        raise _unavailable("cannot be reached", "SecretStoreUnreachable") from error
    except vault.InvalidRequest as error:
        # AppRole says 400 for a wrong role or secret; a new mount is being upgraded for a moment.
        raise _unavailable("refuses the request", "SecretStoreRefused") from error
    except vault.VaultError as error:
        raise _unavailable("answers with an error", "SecretStoreFailed") from error


def _unavailable(what: str, reason: str) -> Unavailable:
    logger.warning("the secret store cannot be used", extra={"reason": reason})
    return Unavailable(f"the secret store {what}", reason=reason)
