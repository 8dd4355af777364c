"""Makes Workloads and routes of an app what its versions in memory say. Knows no database.

Order matters here: a Workload belongs to its app before it exists, and until it is gone, so that
nothing that runs is ever without an owner.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ignite.controllers.autoscaler import Autoscaler
from ignite.controllers.fleet import Deployed, Fleet
from ignite.controllers.routes import RouteBoard
from ignite.domain.apps import AppStatus, ObservedReplica, host_labels
from ignite.domain.deployments import (
    RolloutPlan,
    plan_rollout,
    route_of,
    workload_ref,
    workload_spec,
)
from ignite.domain.errors import InvalidArgument
from ignite.domain.scaling import PlatformScaling, ScalePolicy, policy_of
from ignite.domain.versions import Version
from ignite.domain.workloads import WorkloadStatus
from ignite.ports.backend import RuntimeBackend

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """The numbers the deployment controller needs.

    `rollout_timeout` bounds how long a compiled version may take to its first ready replica.
    """

    base_domain: str
    default_concurrency: int
    platform: PlatformScaling
    trial_idle: timedelta
    rollout_timeout: timedelta = timedelta(minutes=10)
    concurrency: int = 16


class Serving:
    """The serving side of all apps: backend, board and autoscaler."""

    def __init__(
        self,
        fleet: Fleet,
        backend: RuntimeBackend,
        board: RouteBoard,
        autoscaler: Autoscaler,
        settings: DeploymentSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._fleet = fleet
        self._backend = backend
        self._board = board
        self._autoscaler = autoscaler
        self._settings = settings
        self._now = now

    async def converge(self, deployed: Deployed) -> None:
        """Make Workloads and routes of an app so. Doing it twice changes nothing."""
        self._end_trials(deployed)
        versions = {self.key(deployed, version): version for version in deployed.runnable()}
        self._fleet.own(deployed, versions)
        for key, version in versions.items():
            self._track(deployed, version, key)
        self._note_rollout(deployed)
        # The new routes first: a host name leads somewhere at every moment.
        self.put_routes(deployed)
        for key in deployed.keys - versions.keys():
            await self._drop(deployed, key)
        for version in versions.values():
            if not deployed.is_gone:
                await self._apply(deployed, version)

    async def wake(self, deployed: Deployed, version: Version) -> WorkloadStatus:
        """Ask for a replica now; memory alone. Returns how the Workload stands after that."""
        key = self.key(deployed, version)
        self._fleet.own(deployed, [key])
        self._track(deployed, version, key)
        self._autoscaler.wake(key)
        await self._apply(deployed, version)
        return self._backend.status(key)

    def adopt(self, deployed: Deployed) -> bool:
        """Take over what runs of an app; returns whether it needs a round."""
        for version in deployed.runnable():
            key = self.key(deployed, version)
            self._fleet.own(deployed, [key])
            alive = len(self._backend.status(key).alive)
            self._track(deployed, version, key, running=alive)
        self.put_routes(deployed)
        return deployed.is_rolling or any(
            self._autoscaler.desired(key) or self._backend.status(key).replicas
            for key in deployed.keys
        )

    def is_routed(self, key: str, status: WorkloadStatus) -> bool:
        """Tell whether the board knows of a Workload what is so."""
        route = self._board.get(key)
        if route is None or route.replicas != status.ready:
            return False
        return bool(status.ready) or route.failure_reason == status.reason

    async def remove(self, deployed: Deployed) -> None:
        """End all of an app."""
        for key in list(deployed.keys):
            await self._drop(deployed, key)

    def put_routes(self, deployed: Deployed) -> None:
        """Put the routes of an app on the board."""
        hostnames = self._hostnames(deployed)
        # The active one last: it has the host names, whoever else is said to have them.
        for version in sorted(deployed.runnable(), key=lambda v: deployed.is_active(v.number)):
            key = self.key(deployed, version)
            if key in deployed.keys:
                self._board.put(
                    route_of(
                        deployed.app,
                        version,
                        self._backend.status(key),
                        hostnames,
                        self._settings.default_concurrency,
                    )
                )

    def plan(self, deployed: Deployed) -> RolloutPlan:
        """Decide about the app's target version."""
        target = deployed.target
        status = self._status(deployed, target)
        before = self._status(deployed, deployed.active)
        serving = 0
        if target is not None and before is not None:
            serving = min(len(before.ready), self._replicas(deployed, target))
        since = deployed.rolling[1] if deployed.rolling else self._now()
        return plan_rollout(
            deployed.app,
            target,
            status,
            serving=serving,
            is_late=self._now() - since > self._settings.rollout_timeout,
        )

    def take_over(self, deployed: Deployed, before: Version | None) -> None:
        """Let the new active version have as many replicas as the one before it."""
        active = deployed.active
        assert active is not None
        wanted = self._autoscaler.desired(self.key(deployed, before)) if before else 0
        key = self.key(deployed, active)
        self._autoscaler.forget(key)
        self._autoscaler.track(key, self._app_policy(deployed), running=max(wanted, 1))

    def observed(self, deployed: Deployed) -> tuple[AppStatus, WorkloadStatus | None]:
        """Return what runs of an app, and how its active Workload stands."""
        active = deployed.active
        status = self._status(deployed, active)
        desired = self._autoscaler.desired(self.key(deployed, active)) if active else 0
        replicas = tuple(
            ObservedReplica(
                id=replica.id,
                version=version.number,
                state=replica.state.value,
                started_at=replica.started_at,
            )
            for version in deployed.runnable()
            for replica in self._backend.status(self.key(deployed, version)).replicas
        )
        seen = AppStatus(
            desired_replicas=desired,
            replicas=replicas,
            error=status.trouble_message if status else "",
            error_reason=status.trouble if status else "",
        )
        return seen, status

    @staticmethod
    def key(deployed: Deployed, version: Version) -> str:
        """Return the name of a version's Workload."""
        return workload_ref(deployed.app, version).key

    def _status(self, deployed: Deployed, version: Version | None) -> WorkloadStatus | None:
        if version is None or not version.artifact:
            return None
        return self._backend.status(self.key(deployed, version))

    async def _apply(self, deployed: Deployed, version: Version) -> None:
        await self._backend.apply(
            workload_spec(
                deployed.app,
                version,
                replicas=self._replicas(deployed, version),
                default_concurrency=self._settings.default_concurrency,
            )
        )

    async def _drop(self, deployed: Deployed, key: str) -> None:
        self._board.drop(key)
        self._autoscaler.forget(key)
        await self._backend.remove(key)
        self._fleet.disown(deployed, key)

    def _track(self, deployed: Deployed, version: Version, key: str, *, running: int = 0) -> None:
        if deployed.is_active(version.number):
            self._autoscaler.track(key, self._app_policy(deployed), running=running)
        elif version.number in deployed.trials:
            self._autoscaler.track(key, ScalePolicy.trial(self._settings.trial_idle))

    def _replicas(self, deployed: Deployed, version: Version) -> int:
        """Return how many replicas to have; a target starts as many as it will take over."""
        desired = self._autoscaler.desired(self.key(deployed, version))
        if not deployed.is_rolling or version.number != deployed.app.target_version:
            return desired
        active = deployed.active
        serving = self._autoscaler.desired(self.key(deployed, active)) if active else 0
        return max(desired, serving, self._app_policy(deployed).floor, 1)

    def _note_rollout(self, deployed: Deployed) -> None:
        """Note since when the target could start."""
        target = deployed.target
        if not deployed.is_rolling or target is None or not target.artifact:
            deployed.rolling = None
        elif deployed.rolling is None or deployed.rolling[0] != target.number:
            deployed.rolling = (target.number, self._now())

    def _end_trials(self, deployed: Deployed) -> None:
        """Forget trials that are over: idle and without replicas, overwritten, or serving now."""
        for number in list(deployed.trials):
            version = deployed.versions.get(number)
            if version is not None and version.artifact and not deployed.is_active(number):
                key = self.key(deployed, version)
                if self._autoscaler.desired(key) or self._backend.status(key).replicas:
                    continue
            deployed.trials.discard(number)
            if version not in (deployed.active, deployed.target):
                deployed.versions.pop(number, None)

    def _app_policy(self, deployed: Deployed) -> ScalePolicy:
        return policy_of(deployed.app.config, self._settings.platform)

    def _hostnames(self, deployed: Deployed) -> tuple[str, ...]:
        try:
            labels = host_labels(deployed.app.ref, deployed.app.config)
        except InvalidArgument:
            return ()
        return tuple(f"{label}.{self._settings.base_domain}" for label in labels)
