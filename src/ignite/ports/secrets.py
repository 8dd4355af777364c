"""The port of the secret store: typed slots of one organisation (spec 13)."""

from typing import Protocol

from ignite.domain.identity import OrganizationName
from ignite.domain.secrets import SecretSlot, SecretValue


class SecretStore(Protocol):
    """Keeps slots in a store of their own. Every call is confined to one organisation.

    Raises Unavailable while the store is sealed or out of reach.
    """

    async def put(
        self, organization: OrganizationName, name: str, value: SecretValue
    ) -> SecretSlot:
        """Create or overwrite; `created_at` survives an overwrite. Keeps no history."""

    async def get(
        self, organization: OrganizationName, name: str
    ) -> tuple[SecretSlot, SecretValue]:
        """Return the slot with its value; raises SecretNotFound."""

    async def list(self, organization: OrganizationName) -> tuple[SecretSlot, ...]:
        """Return all slots by name, without values."""

    async def delete(self, organization: OrganizationName, name: str) -> None:
        """Remove the slot and everything of it; an absent one is success."""
