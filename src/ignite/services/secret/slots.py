"""What can be done with secret slots. Every access to a value leaves a line in the audit log."""

import logging
from collections.abc import Sequence

from ignite.domain.identity import Principal
from ignite.domain.secrets import SecretSlot, SecretValue, check_secret_name, check_secret_value
from ignite.ports.secrets import SecretStore

audit = logging.getLogger("ignite.audit")


class Slots:
    """The use cases of SecretService."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    async def create(self, caller: Principal, name: str, value: SecretValue) -> SecretSlot:
        """Create or overwrite a slot; raises InvalidArgument naming the field."""
        check_secret_name(name)
        check_secret_value(value)
        slot = await self._store.put(caller.organization.name, name, value)
        audit.info("secret written", extra={**_who(caller, name), "type": slot.type.value})
        return slot

    async def get(self, caller: Principal, name: str) -> tuple[SecretSlot, SecretValue]:
        """Return a slot with its value; raises SecretNotFound."""
        check_secret_name(name)
        slot, value = await self._store.get(caller.organization.name, name)
        audit.info("secret read", extra={**_who(caller, name), "type": slot.type.value})
        return slot, value

    async def list(self, caller: Principal, after: str, limit: int) -> Sequence[SecretSlot]:
        """Return up to `limit` slots whose names come after `after`, in order, without values."""
        slots = await self._store.list(caller.organization.name)
        return [slot for slot in slots if slot.name > after][:limit]

    async def delete(self, caller: Principal, name: str) -> None:
        """Remove a slot; an absent one is success."""
        check_secret_name(name)
        await self._store.delete(caller.organization.name, name)
        audit.info("secret deleted", extra=_who(caller, name))


def _who(caller: Principal, name: str) -> dict[str, str]:
    return {
        "subject": caller.subject,
        "organization": caller.organization.name,
        "slot": name,
    }
