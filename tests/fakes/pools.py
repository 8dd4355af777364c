"""Warm pools that are always empty."""

from ignite.domain.versions import Runtime
from ignite.domain.workloads import WarmPool


class FakeWarmPools:
    """`ports.pools.WarmPools` in memory."""

    def __init__(self) -> None:
        self._pools: dict[Runtime, WarmPool] = {}

    async def list(self) -> list[WarmPool]:
        return list(self._pools.values())

    async def set_size(self, runtime: Runtime, size: int) -> WarmPool:
        pool = self._pools[runtime] = WarmPool(runtime=runtime, size=size, ready=0)
        return pool
