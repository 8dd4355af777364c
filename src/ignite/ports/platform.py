"""The port of the platform's own secrets: small documents that no organisation can reach.

Signing keys and the like. Several processes may write one document, so writing is compare-and-set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformDocument:
    """A document and the version that the next `put` must name."""

    version: int
    value: Mapping[str, str] = field(repr=False)


class DocumentChanged(Exception):
    """Somebody else wrote first: read again and decide anew."""


class PlatformSecrets(Protocol):
    """Keeps documents by name. Raises Unavailable while the store is sealed or out of reach."""

    async def get(self, name: str) -> PlatformDocument | None:
        """Return the document, or None where none was ever put."""

    async def put(self, name: str, value: Mapping[str, str], *, expected: int | None) -> int:
        """Write the document and return its new version.

        `expected` is the version that must be there, 0 for none; None writes whatever is there.
        Raises DocumentChanged when it is not.
        """
