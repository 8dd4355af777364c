"""Takes source code in: looks into it, keeps it as a blob, names it by its hash.

The blob is stored before the transaction that refers to it. One that no row refers to in the end
costs space until the janitor finds it, never correctness.
"""

import asyncio
from collections.abc import Callable

from ignite.domain.app_checks import AppBounds
from ignite.domain.archives import Listing
from ignite.domain.identity import Organization
from ignite.domain.sources import Source, check_entry, check_source, code_of_source
from ignite.domain.versions import Code
from ignite.ports.blobs import BlobStore

Inspect = Callable[[bytes], Listing]
"""Return what an archive holds; raises InvalidArgument for one that must not be unpacked.

Called in a thread.
"""


class Sources:
    """Keeps what SaveDraft and CreateApp bring."""

    def __init__(self, blobs: BlobStore, bounds: AppBounds, inspect: Inspect) -> None:
        self._blobs = blobs
        self._bounds = bounds
        self._inspect = inspect

    def check(self, source: Source) -> None:
        """Refuse what can be refused without looking into an archive."""
        check_source(source, self._bounds)

    async def keep(self, organization: Organization, source: Source) -> Code:
        """Check the source, store it durably and return its Code; raises InvalidArgument."""
        self.check(source)
        if source.is_archive:
            listing = await asyncio.to_thread(self._inspect, source.content)
            check_entry(source.runtime.language, listing)
        blob = await self._blobs.put(organization.name, source.content)
        return code_of_source(source, blob, organization.id)

    async def content(self, organization: Organization, code: Code) -> bytes:
        """Return a source as it was saved."""
        return await self._blobs.get(organization.name, code.blob)
