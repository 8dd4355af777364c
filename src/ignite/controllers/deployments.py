"""Makes of every app what its record says: Workloads, routes, and the move of `active_version`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from ignite.controllers.autoscaler import Autoscaler
from ignite.controllers.fleet import Deployed, Fleet
from ignite.controllers.loop import ReconcileLoop
from ignite.controllers.records import Records
from ignite.controllers.routes import RouteBoard
from ignite.controllers.serving import DeploymentSettings as DeploymentSettings
from ignite.controllers.serving import Serving
from ignite.db.database import APPS_CHANNEL, Database
from ignite.domain.apps import AppRef
from ignite.domain.deployments import Rollout
from ignite.domain.errors import Unavailable
from ignite.domain.versions import Version
from ignite.ports.backend import RuntimeBackend

logger = logging.getLogger(__name__)

_POLL_SECS = 2.0
_POLL_PAGE = 500

_COMPARE_SECS = 30.0
"""How often all routes are compared with what runs: only what a failure has left is found so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAnswer:
    """Whether a replica will come; else why not."""

    ok: bool
    key: str = ""
    reason: str = ""
    message: str = ""


class Deployments:
    """The deployment controller. A Component."""

    name = "deployments"

    def __init__(
        self,
        database: Database,
        backend: RuntimeBackend,
        board: RouteBoard,
        autoscaler: Autoscaler,
        settings: DeploymentSettings,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._backend = backend
        self._board = board
        self._fleet = Fleet(database)
        self._serving = Serving(self._fleet, backend, board, autoscaler, settings, now)
        self._listening = asyncio.Event()
        self._rolling: set[int] = set()
        self._unrouted: set[int] = set()
        self._loop: ReconcileLoop[int] = ReconcileLoop(
            self.name, self._reconcile, concurrency=settings.concurrency
        )
        self._records = Records(database, self._loop.hint)
        autoscaler.on_change(self._scaled)

    async def run(self, ready: Callable[[], None]) -> None:
        """Load everything, take over what runs, then converge until cancelled."""
        async with asyncio.TaskGroup() as group:
            # Listen first, to both: a change after the load is then never missed.
            group.create_task(self._database.listen((APPS_CHANNEL,), self._hear))
            changes = self._backend.changes()
            await self._listening.wait()
            await self._load()
            await self._adopt()
            self._board.open()
            group.create_task(self._loop.run())
            group.create_task(self._follow_backend(changes))
            group.create_task(self._poll())
            ready()
            logger.info("deployments loaded", extra={"apps": len(self._fleet)})

    async def wake(self, ref: AppRef, version: int | None) -> WakeAnswer:
        """Ask for a replica of the active version, or of another one for a trial.

        Waking the active version of a known app touches memory alone; else Unavailable is raised
        while the database is away.
        """
        deployed = await self._fleet.find(ref)
        if deployed is None or deployed.is_gone:
            return WakeAnswer(ok=False, reason="AppNotFound", message=f"no app {ref.id!r}")
        if version is not None and not deployed.is_active(version):
            return await self._wake_trial(deployed, version)
        active = deployed.active
        if active is None or not active.artifact:
            return _not_ready(deployed, "a published version")
        return await self._wake(deployed, active)

    async def _wake_trial(self, deployed: Deployed, number: int) -> WakeAnswer:
        async with deployed.lock:
            async with self._database.transaction() as tx:
                version = await tx.versions.get(deployed.app.id, number)
            if version is None or not version.artifact or deployed.is_gone:
                return _not_ready(deployed, f"version {number}")
            deployed.versions[number] = version
            if not deployed.is_active(number):
                deployed.trials.add(number)
            answer = await self._wake(deployed, version)
            await self._serving.converge(deployed)
            return answer

    async def _wake(self, deployed: Deployed, version: Version) -> WakeAnswer:
        status = await self._serving.wake(deployed, version)
        if status.reason and not status.alive:
            return WakeAnswer(ok=False, reason=status.reason, message=status.message)
        return WakeAnswer(ok=True, key=status.key)

    # -- hints -----------------------------------------------------------------------------------

    def _hear(self, _channel: str, payload: str) -> None:
        if payload.isdigit():
            self._stale(int(payload))
            return
        if not self._listening.is_set():
            self._listening.set()
            return
        # Hints were lost while the connection was down. The poll would find changes of config and
        # targets, but not deletions.
        for deployed in self._fleet:
            if deployed.keys or deployed.is_rolling:
                self._stale(deployed.app.id)

    def _stale(self, app_id: int) -> None:
        if (deployed := self._fleet.get(app_id)) is not None:
            deployed.is_stale = True
        self._loop.hint(app_id)

    def _scaled(self, key: str) -> None:
        if (deployed := self._fleet.of_key(key)) is not None:
            self._loop.hint(deployed.app.id)

    async def _follow_backend(self, changes: AsyncIterator[str]) -> None:
        async for key in changes:
            deployed = self._fleet.of_key(key)
            if deployed is not None:
                # The route first: callers wait for it. The record may follow.
                self._put_routes(deployed)
                self._loop.hint(deployed.app.id)
                continue
            try:
                await self._backend.remove(key)
            except Exception:  # it is found again when all is compared
                logger.exception("workload without an owner not ended", extra={"workload": key})

    async def _poll(self) -> None:
        """Find what hints have missed."""
        compared_at = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(_POLL_SECS)
            try:
                async with self._database.transaction() as tx:
                    behind = await tx.apps.behind(_POLL_PAGE)
                for app_id in behind:
                    self._stale(app_id)
            except Unavailable:
                pass
            except Exception:  # hints still come, and the next poll may do better
                logger.exception("apps not polled")
            for app_id in self._rolling:
                self._stale(app_id)
            try:
                compared_at = await self._mend(compared_at)
            except Exception:
                logger.exception("routes not compared")

    async def _mend(self, compared_at: float) -> float:
        """Route what could not be routed; now and then look at all. Returns when that was."""
        now = asyncio.get_running_loop().time()
        if now - compared_at >= _COMPARE_SECS:
            await self._compare()
            return now
        for app_id in self._unrouted.copy():
            if (deployed := self._fleet.get(app_id)) is not None:
                self._put_routes(deployed)
            else:
                self._unrouted.discard(app_id)
        return compared_at

    async def _compare(self) -> None:
        """Bring routes in step with what runs; end what nobody owns."""
        for key, status in (await self._backend.observe()).items():
            deployed = self._fleet.of_key(key)
            if deployed is None:
                await self._backend.remove(key)
            elif not self._serving.is_routed(key, status):
                self._put_routes(deployed)

    def _put_routes(self, deployed: Deployed) -> None:
        self._unrouted.discard(deployed.app.id)
        try:
            self._serving.put_routes(deployed)
        except Exception:  # one app must not keep the others from being routed
            self._unrouted.add(deployed.app.id)
            logger.exception("app not routed", extra={"app": deployed.app.ref.id})

    async def _load(self) -> None:
        while True:
            try:
                await self._fleet.load_all()
            except Unavailable:
                logger.warning("apps not loaded yet: the database does not answer")
                await asyncio.sleep(_POLL_SECS)
            else:
                return

    async def _adopt(self) -> None:
        """Take over Workloads of an earlier process; drop those that nobody wants any more."""
        await self._backend.observe()
        for deployed in self._fleet:
            try:
                needs_round = self._serving.adopt(deployed)
                seen, status = self._serving.observed(deployed)
                if needs_round or self._records.differs(deployed, seen, status):
                    self._loop.hint(deployed.app.id)
            except Exception:  # one app must not keep the others from being served
                logger.exception("app not adopted", extra={"app": deployed.app.ref.id})
                self._loop.hint(deployed.app.id)
        await self._compare()

    # -- converging ------------------------------------------------------------------------------

    async def _reconcile(self, app_id: int) -> None:
        deployed = await self._fleet.of(app_id)
        if deployed is None:
            self._rolling.discard(app_id)
            return
        try:
            await self._round(deployed)
        finally:
            # Also after a failure: the poll comes back to what is not settled.
            if deployed.is_rolling and not deployed.is_gone:
                self._rolling.add(app_id)
            else:
                self._rolling.discard(app_id)
        if deployed.is_stale and not deployed.is_gone:
            self._loop.hint(app_id)

    async def _round(self, deployed: Deployed) -> None:
        async with deployed.lock:
            if not await self._fleet.refresh(deployed):
                deployed.is_gone = True
                await self._serving.remove(deployed)
                self._fleet.remove(deployed)
                return
            await self._serving.converge(deployed)
            if await self._roll(deployed):
                await self._serving.converge(deployed)
                # Who reads DEPLOYED may call: no gateway says "no such host" any more.
                await self._board.applied()
            seen, status = self._serving.observed(deployed)
            await self._records.observe(deployed, seen, status)

    async def _roll(self, deployed: Deployed) -> bool:
        """Take the next step of a rollout; returns whether there was one."""
        plan = self._serving.plan(deployed)
        match plan.action:
            case Rollout.ACTIVATE:
                before = deployed.active
                if await self._records.activate(deployed):
                    self._serving.take_over(deployed, before)
                    return True
            case Rollout.GIVE_UP:
                return await self._records.give_up(deployed, plan.reason, plan.message)
            case Rollout.WAIT | Rollout.SETTLED:
                pass
        return False


def _not_ready(deployed: Deployed, what: str) -> WakeAnswer:
    return WakeAnswer(
        ok=False,
        reason="VersionNotReady",
        message=f"app {deployed.app.ref.id!r} has not got {what}",
    )
