"""Makes of every app what its record says: Workloads, routes, and the move of `active_version`."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ignite.controllers.autoscaler import Autoscaler
from ignite.controllers.fleet import Deployed, Fleet
from ignite.controllers.loop import ReconcileLoop
from ignite.controllers.routes import RouteBoard
from ignite.db.database import APPS_CHANNEL, Database
from ignite.domain.apps import AppRef, AppStatus, DeploymentState, ObservedReplica, host_labels
from ignite.domain.deployments import (
    Rollout,
    deployment_state,
    plan_rollout,
    route_of,
    workload_ref,
    workload_spec,
)
from ignite.domain.errors import InvalidArgument, Unavailable
from ignite.domain.scaling import PlatformScaling, ScalePolicy, policy_of
from ignite.domain.versions import Version, VersionStatus
from ignite.domain.workloads import WorkloadStatus
from ignite.ports.backend import RuntimeBackend

logger = logging.getLogger(__name__)

_POLL_SECS = 2.0
_POLL_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """The numbers this controller needs."""

    base_domain: str
    default_concurrency: int
    platform: PlatformScaling
    trial_idle: timedelta
    concurrency: int = 16


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
        self._autoscaler = autoscaler
        self._settings = settings
        self._now = now
        self._fleet = Fleet(database)
        self._listening = asyncio.Event()
        self._loop: ReconcileLoop[int] = ReconcileLoop(
            self.name, self._reconcile, concurrency=settings.concurrency
        )
        autoscaler.on_change(self._scaled)

    async def run(self, ready: Callable[[], None]) -> None:
        """Load everything, take over what runs, then converge until cancelled."""
        async with asyncio.TaskGroup() as group:
            # Listen first: a change after the load is then never missed.
            group.create_task(self._database.listen((APPS_CHANNEL,), self._hear))
            await self._listening.wait()
            await self._fleet.load_all()
            await self._adopt()
            group.create_task(self._loop.run())
            group.create_task(self._follow_backend())
            group.create_task(self._poll())
            ready()
            logger.info("deployments loaded", extra={"apps": len(list(self._fleet))})

    async def wake(self, ref: AppRef, version: int | None) -> WakeAnswer:
        """Ask for a replica of the active version, or of another one for a trial.

        Waking the active version of a known app touches memory alone.
        """
        deployed = await self._fleet.find(ref)
        if deployed is None:
            return WakeAnswer(ok=False, reason="AppNotFound", message=f"no app {ref.id!r}")
        number = deployed.app.active_version if version is None else version
        is_trial = version is not None and number != deployed.app.active_version
        if is_trial:
            deployed.trials.add(number)
            deployed.is_stale = True
            await self._fleet.load(deployed.app.id)
        found = deployed.versions.get(number)
        if found is None or not found.artifact:
            deployed.trials.discard(number)
            what = f"version {number}" if is_trial else "a published version"
            return WakeAnswer(
                ok=False, reason="VersionNotReady", message=f"app {ref.id!r} has not got {what}"
            )
        key = workload_ref(deployed.app, found).key
        if is_trial:
            self._autoscaler.track(key, ScalePolicy.trial(self._settings.trial_idle))
        self._autoscaler.wake(key)
        await self._converge(deployed)
        self._loop.hint(deployed.app.id)
        return WakeAnswer(ok=True, key=key)

    # -- hints -----------------------------------------------------------------------------------

    def _hear(self, _channel: str, payload: str) -> None:
        if payload.isdigit():
            self._stale(int(payload))
            return
        if not self._listening.is_set():
            self._listening.set()
            return
        # Hints were lost while the connection was down: the poll would find changes of config and
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

    async def _follow_backend(self) -> None:
        async for key in self._backend.changes():
            deployed = self._fleet.of_key(key)
            if deployed is not None:
                # The route first: callers wait for it. The record may follow.
                self._route(deployed)
                self._loop.hint(deployed.app.id)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECS)
            try:
                async with self._database.transaction() as tx:
                    behind = await tx.apps.behind(_POLL_PAGE)
            except Unavailable:
                continue
            for app_id in behind:
                self._stale(app_id)
            for deployed in self._fleet:
                if deployed.is_rolling:
                    self._stale(deployed.app.id)

    async def _adopt(self) -> None:
        """Take over Workloads of an earlier process; drop those that nobody wants any more."""
        observed = await self._backend.observe()
        for deployed in self._fleet:
            for version in deployed.versions.values():
                key = workload_ref(deployed.app, version).key
                if version.artifact and version.number == deployed.app.active_version:
                    running = len(observed[key].ready) if key in observed else 0
                    self._autoscaler.track(key, self._policy(deployed), running=running)
            self._route(deployed)
            if deployed.is_rolling or any(self._autoscaler.desired(k) for k in deployed.keys):
                self._loop.hint(deployed.app.id)
        for key in observed:
            if self._fleet.of_key(key) is None:
                logger.info("unwanted workload", extra={"workload": key})
                await self._backend.remove(key)

    # -- converging ------------------------------------------------------------------------------

    async def _reconcile(self, app_id: int) -> None:
        deployed = await self._fleet.load(app_id)
        if deployed is None:
            for key in self._fleet.remove(app_id):
                await self._drop(key)
            return
        generation = deployed.app.generation
        target = deployed.versions.get(deployed.app.target_version)
        plan = plan_rollout(
            deployed.app,
            target,
            {key: self._backend.status(key) for key in deployed.keys},
        )
        match plan.action:
            case Rollout.ACTIVATE:
                await self._activate(deployed)
            case Rollout.GIVE_UP:
                await self._give_up(deployed, plan.reason, plan.message)
            case Rollout.WAIT | Rollout.SETTLED:
                pass
        await self._converge(deployed)
        await self._record(deployed, generation)

    async def _converge(self, deployed: Deployed) -> None:
        """Make Workloads and routes of an app what its versions in memory say."""
        self._end_trials(deployed)
        for key in self._route(deployed):
            await self._drop(key)
        for version in deployed.versions.values():
            if version.artifact:
                await self._backend.apply(
                    workload_spec(
                        deployed.app,
                        version,
                        replicas=self._replicas(deployed, version),
                        default_concurrency=self._settings.default_concurrency,
                    )
                )

    def _route(self, deployed: Deployed) -> set[str]:
        """Put the routes of an app on the board; returns Workloads it no longer has."""
        keys: set[str] = set()
        for version in deployed.versions.values():
            if not version.artifact:
                continue
            key = workload_ref(deployed.app, version).key
            keys.add(key)
            if version.number == deployed.app.active_version:
                self._autoscaler.track(key, self._policy(deployed))
            self._board.put(
                route_of(
                    deployed.app,
                    version,
                    self._backend.status(key),
                    self._hostnames(deployed),
                    self._settings.default_concurrency,
                )
            )
        return self._fleet.own(deployed, keys)

    async def _drop(self, key: str) -> None:
        self._board.drop(key)
        self._autoscaler.forget(key)
        await self._backend.remove(key)

    def _replicas(self, deployed: Deployed, version: Version) -> int:
        desired = self._autoscaler.desired(workload_ref(deployed.app, version).key)
        is_target = version.number == deployed.app.target_version and deployed.is_rolling
        return max(desired, 1) if is_target else desired

    def _end_trials(self, deployed: Deployed) -> None:
        for number in list(deployed.trials):
            version = deployed.versions.get(number)
            if version is not None and version.artifact:
                key = workload_ref(deployed.app, version).key
                if self._autoscaler.desired(key) or self._backend.status(key).replicas:
                    continue
            deployed.trials.discard(number)
            if number not in (deployed.app.active_version, deployed.app.target_version):
                deployed.versions.pop(number, None)

    def _policy(self, deployed: Deployed) -> ScalePolicy:
        return policy_of(deployed.app.config, self._settings.platform)

    def _hostnames(self, deployed: Deployed) -> tuple[str, ...]:
        try:
            labels = host_labels(deployed.app.ref, deployed.app.config)
        except InvalidArgument:
            return ()
        return tuple(f"{label}.{self._settings.base_domain}" for label in labels)

    # -- what the database is told ---------------------------------------------------------------

    async def _activate(self, deployed: Deployed) -> None:
        """Move `active_version` to the ready target, unless somebody chose another meanwhile."""
        number = deployed.app.target_version
        async with self._database.transaction() as tx:
            app = await tx.apps.get_by_id(deployed.app.id, lock=True)
            if app is None or app.target_version != number:
                deployed.is_stale = True
                self._loop.hint(deployed.app.id)
                return
            if app.active_version:
                await tx.versions.move(app.id, app.active_version, VersionStatus.SUPERSEDED)
            await tx.versions.move(app.id, number, VersionStatus.ACTIVE)
            app = await tx.apps.activate(app, number, DeploymentState.DEPLOYED)
        old = deployed.app.active_version
        deployed.app = app
        if old != number and old not in deployed.trials:
            deployed.versions.pop(old, None)
        key = workload_ref(app, deployed.versions[number]).key
        self._autoscaler.track(key, self._policy(deployed))
        self._autoscaler.wake(key)
        logger.info("version active", extra={"app": app.ref.id, "version": number, "before": old})

    async def _give_up(self, deployed: Deployed, reason: str, message: str) -> None:
        """Record a failed rollout; the active version serves on."""
        number = deployed.app.target_version
        async with self._database.transaction() as tx:
            app = await tx.apps.get_by_id(deployed.app.id, lock=True)
            if app is None or app.target_version != number:
                deployed.is_stale = True
                self._loop.hint(deployed.app.id)
                return
            await tx.versions.move(
                app.id, number, VersionStatus.FAILED, error=message, reason=reason
            )
            state = app.state if app.active_version else DeploymentState.FAILED
            app = await tx.apps.give_up_target(app, state, message, reason)
        deployed.app = app
        if number not in deployed.trials and number != app.active_version:
            deployed.versions.pop(number, None)
        logger.warning(
            "version failed", extra={"app": app.ref.id, "version": number, "reason": reason}
        )

    async def _record(self, deployed: Deployed, generation: int) -> None:
        """Write what runs, where it differs from what was written last."""
        app = deployed.app
        active = deployed.versions.get(app.active_version)
        status: WorkloadStatus | None = None
        desired = 0
        if active is not None and active.artifact:
            key = workload_ref(app, active).key
            status = self._backend.status(key)
            desired = self._autoscaler.desired(key)
        target = deployed.versions.get(app.target_version)
        state = deployment_state(app, target, status, desired)
        seen = AppStatus(
            desired_replicas=desired,
            replicas=self._observed(deployed),
            error=status.message if status else "",
            error_reason=status.reason if status else "",
        )
        is_new = app.observed_generation < generation
        if deployed.recorded == (state, seen) and not is_new:
            return
        async with self._database.transaction() as tx:
            await tx.apps.set_state(app.id, state, app.error, app.error_reason)
            await tx.status.put(app.id, seen)
            if is_new:
                await tx.apps.observe(app.id, generation)
        deployed.recorded = (state, seen)
        deployed.app = replace(
            deployed.app, state=state, observed_generation=max(generation, app.observed_generation)
        )

    def _observed(self, deployed: Deployed) -> tuple[ObservedReplica, ...]:
        return tuple(
            ObservedReplica(
                id=replica.id,
                version=version.number,
                state=replica.state.value,
                started_at=replica.started_at,
            )
            for version in deployed.versions.values()
            for replica in self._backend.status(workload_ref(deployed.app, version).key).replicas
        )
