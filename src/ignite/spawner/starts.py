"""Three ways to start a replica: a sandbox that waits for an app, a fork, bubblewrap.

The first that works is taken. A way that fails before any code of the app has run is only a slower
start; it is counted and logged, since it should not happen.
"""

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass

from ignite.sandbox.bubblewrap import SandboxSpec
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.forked import Forked, ForkFailed
from ignite.sandbox.forkserver import Seat
from ignite.sandbox.interpreters import Interpreter
from ignite.sandbox.launcher import Launcher, Running
from ignite.sandbox.network.namespaces import Namespace
from ignite.sandbox.network.plan import Kind
from ignite.sandbox.uids import UidPool
from ignite.settings import RuntimeSettings
from ignite.spawner.forks import ForkServers
from ignite.spawner.host import Host
from ignite.spawner.networks import Networks
from ignite.spawner.specs import ReplicaSpec

logger = logging.getLogger(__name__)

POOL, FORK, BWRAP = "pool", "fork", "bwrap"
SANDBOX_SECS = 10.0


@dataclass(slots=True, kw_only=True)
class Place:
    """What a replica has before it has its app. `forked` is a sandbox that waits for it."""

    uid: int
    group: ControlGroup
    network: Namespace | None = None
    forked: Forked | None = None


class Starts:
    """Makes places and starts sandboxes in them."""

    def __init__(
        self,
        *,
        settings: RuntimeSettings,
        host: Host,
        launcher: Launcher,
        uids: UidPool,
        forks: ForkServers,
        networks: Networks,
    ) -> None:
        self._settings = settings
        self._host = host
        self._launcher = launcher
        self._uids = uids
        self._forks = forks
        self._networks = networks
        self.failures: Counter[str] = Counter()

    async def place(self, name: str) -> Place:
        """Return a new place; `name` is its control group's."""
        uid = self._uids.take() if self._host.tools.is_root else os.geteuid()
        network: Namespace | None = None
        try:
            network = await self._networks.take(Kind.REPLICA)
            group = await asyncio.to_thread(self._host.groups.create, name)
        except BaseException:
            self._uids.give_back(uid)
            if network is not None:
                self._networks.give_back(network)
            raise
        return Place(uid=uid, group=group, network=network)

    async def leave(self, place: Place) -> None:
        """Give a place back; what runs in it is killed."""
        if place.forked is not None:
            await asyncio.to_thread(place.forked.kill)
            place.forked.close()
        # The uid is given back when nothing can run under it any more.
        if await asyncio.to_thread(place.group.remove):
            self._uids.give_back(place.uid)
        if place.network is not None:
            self._networks.give_back(place.network)

    async def start(
        self, spec: ReplicaSpec, sandbox: SandboxSpec, place: Place
    ) -> tuple[Running, str]:
        """Start a sandbox; return it and which way it came."""
        interpreter = self._host.interpreter(spec.runtime)
        waiting, place.forked = place.forked, None
        if waiting is not None and await self._specialise(waiting, sandbox, POOL):
            return waiting, POOL
        if self._forks.can_fork(interpreter):
            forked = await self.fork(interpreter, place)
            if forked is not None and await self._specialise(forked, sandbox, FORK):
                return forked, FORK
        return await self._launcher.start(sandbox, place.group), BWRAP

    async def fork(self, interpreter: Interpreter, place: Place) -> Forked | None:
        """Fork a sandbox into `place`; None where that fails."""
        try:
            return await self._forks.fork(
                interpreter,
                Seat(
                    uid=place.uid,
                    group=place.group,
                    tmp_bytes=self._settings.tmp_bytes,
                    has_network=self._host.egress.replicas == "host",
                    network=None if place.network is None else place.network.descriptor,
                ),
            )
        except ForkFailed as error:
            self.note(error, FORK)
            return None

    async def _specialise(self, forked: Forked, sandbox: SandboxSpec, way: str) -> bool:
        is_started = False
        try:
            await forked.specialise(sandbox, SANDBOX_SECS)
            is_started = True
        except ForkFailed as error:
            self.note(error, way)
        finally:
            if not is_started:
                await asyncio.to_thread(forked.kill)
                forked.close()
        return is_started

    def note(self, error: ForkFailed, way: str) -> None:
        """Count and log a way that did not work."""
        self.failures[way] += 1
        logger.warning(
            "sandbox not made, another way is tried", extra={"way": way, "why": str(error)}
        )
