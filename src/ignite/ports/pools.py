"""The port of warm pools: how many sandboxes of each runtime are kept ready for any app."""

from collections.abc import Sequence
from typing import Protocol

from ignite.domain.versions import Runtime
from ignite.domain.workloads import WarmPool


class WarmPools(Protocol):
    """Sizes of pools, which whoever keeps the pools remembers. Raises Unavailable out of reach."""

    async def list(self) -> Sequence[WarmPool]:
        """Return every pool that is wanted."""

    async def set_size(self, runtime: Runtime, size: int) -> WarmPool:
        """Change a pool's size, 0 to remove it; filled behind the answer.

        Raises FailedPrecondition where this machine cannot, InvalidArgument for too much.
        """
