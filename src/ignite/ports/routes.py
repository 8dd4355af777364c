"""The port to the gateways' route tables."""

from collections.abc import Collection
from typing import Protocol


class Drain(Protocol):
    """Takes replicas out of all route tables."""

    async def route_away(self, replica_ids: Collection[str]) -> None:
        """Return once no gateway sends new requests to these replicas.

        Bounded: a gateway that does not acknowledge in time is taken for gone.
        """
