"""The health of the installation: every part is probed at once, each within its own bound."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ignite.domain.errors import IgniteError
from ignite.domain.health import (
    ClusterHealth,
    ComponentHealth,
    Health,
    HealthStatus,
    SandboxHealth,
)

logger = logging.getLogger(__name__)

Probe = Callable[[], Awaitable[Health]]
SandboxProbe = Callable[[], Awaitable[SandboxHealth]]

PROBE_SECS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What does not change while the process runs."""

    version: str
    backend: str


class Cluster:
    """The use case. A probe that raises or takes too long makes its part unhealthy."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        facts: ClusterFacts,
        clock: Callable[[], datetime],
        *,
        sandbox: SandboxProbe | None = None,
        probe_secs: float = PROBE_SECS,
    ) -> None:
        self._probes = dict(probes)
        self._facts = facts
        self._clock = clock
        self._sandbox = sandbox
        self._probe_secs = probe_secs

    async def health(self) -> ClusterHealth:
        """Probe everything now."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._component(name, probe))
                for name, probe in self._probes.items()
            ]
            report = tasks.create_task(self._sandbox_health())
        return ClusterHealth(
            components=tuple(task.result() for task in running),
            version=self._facts.version,
            backend=self._facts.backend,
            sandbox=report.result(),
        )

    async def _component(self, name: str, probe: Probe) -> ComponentHealth:
        try:
            async with asyncio.timeout(self._probe_secs):
                health = await probe()
        except TimeoutError:
            health = _unhealthy(f"no answer in {self._probe_secs:g} s")
        except IgniteError as error:
            health = _unhealthy(error.message)
        except Exception as error:
            logger.exception("a probe failed", extra={"probe": name})
            health = _unhealthy(type(error).__name__)
        return ComponentHealth(name=name, health=health, checked_at=self._clock())

    async def _sandbox_health(self) -> SandboxHealth | None:
        if self._sandbox is None:
            return None
        try:
            async with asyncio.timeout(self._probe_secs):
                return await self._sandbox()
        except (TimeoutError, IgniteError) as error:
            logger.warning("no sandbox report", extra={"error": str(error)})
            return None


def _unhealthy(message: str) -> Health:
    return Health(status=HealthStatus.UNHEALTHY, message=message)
