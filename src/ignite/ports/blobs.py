"""The port of blob stores: immutable bytes by their own digest."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from ignite.domain.identity import OrganizationName


class BlobStore(Protocol):
    """Keeps bytes by SHA-256 (64 hex digits), one name space an organisation."""

    async def put(self, organization: OrganizationName, content: bytes) -> str:
        """Store `content` durably and return its digest. Storing it again is a no-op."""

    async def get(self, organization: OrganizationName, digest: str) -> bytes:
        """Return the bytes; raises NotFound."""

    def stream(self, organization: OrganizationName, digest: str) -> AsyncIterator[bytes]:
        """Yield the bytes in chunks; raises NotFound at the first."""

    async def put_file(self, organization: OrganizationName, path: Path) -> str:
        """Store the file's content durably and return its digest."""
