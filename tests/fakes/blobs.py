"""A fake of ports.blobs: bytes in memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from ignite.domain.errors import NotFound
from ignite.domain.identity import OrganizationName


class FakeBlobStore:
    """Keeps blobs in a dict, by organisation and digest."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}

    async def put(self, organization: OrganizationName, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[organization, digest] = content
        return digest

    async def get(self, organization: OrganizationName, digest: str) -> bytes:
        try:
            return self.blobs[organization, digest]
        except KeyError:
            raise NotFound(f"no blob {digest}") from None

    async def stream(self, organization: OrganizationName, digest: str) -> AsyncIterator[bytes]:
        yield await self.get(organization, digest)

    async def put_file(self, organization: OrganizationName, path: Path) -> str:
        return await self.put(organization, await asyncio.to_thread(path.read_bytes))
