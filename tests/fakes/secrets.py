"""A secret store in memory that keeps the promises of ports.secrets."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ignite.domain.errors import SecretNotFound, Unavailable
from ignite.domain.identity import OrganizationName
from ignite.domain.secrets import SecretSlot, SecretValue, type_of


class FakeSecretStore:
    """Implements ports.secrets.SecretStore. `is_sealed` makes every call Unavailable."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._slots: dict[tuple[OrganizationName, str], tuple[SecretSlot, SecretValue]] = {}
        self.is_sealed = False

    async def put(
        self, organization: OrganizationName, name: str, value: SecretValue
    ) -> SecretSlot:
        self._check()
        now = self._clock()
        slot = SecretSlot(name=name, type=type_of(value), created_at=now, updated_at=now)
        if known := self._slots.get((organization, name)):
            slot = replace(slot, created_at=known[0].created_at)
        self._slots[organization, name] = (slot, value)
        return slot

    async def get(
        self, organization: OrganizationName, name: str
    ) -> tuple[SecretSlot, SecretValue]:
        self._check()
        try:
            return self._slots[organization, name]
        except KeyError:
            raise SecretNotFound(f"no secret {name!r}") from None

    async def list(self, organization: OrganizationName) -> tuple[SecretSlot, ...]:
        self._check()
        found = (slot for (org, _), (slot, _) in self._slots.items() if org == organization)
        return tuple(sorted(found, key=lambda slot: slot.name))

    async def delete(self, organization: OrganizationName, name: str) -> None:
        self._check()
        self._slots.pop((organization, name), None)

    def _check(self) -> None:
        if self.is_sealed:
            raise Unavailable("the secret store is sealed", reason="SecretStoreSealed")
