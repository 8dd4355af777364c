"""What the deployment controller tells the database. Each call is one short transaction.

The row is locked and looked at again, because the API may have changed it since it was read: what
was decided about an older state is then dropped, and the app is read anew.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from ignite.controllers.fleet import Deployed
from ignite.db.database import Database, Transaction
from ignite.domain.apps import App, AppStatus, DeploymentState
from ignite.domain.deployments import deployment_state
from ignite.domain.versions import VersionStatus
from ignite.domain.workloads import ReplicaState, WorkloadStatus

logger = logging.getLogger(__name__)

_PASSING_SECS = 1.0
"""A start or an end of replicas that takes no longer is written once, when it is over."""


class Records:
    """The records of apps, as far as this controller writes them. Calls need the app's lock.

    `hint` asks for a round of an app, in which `observe` is called again.
    """

    def __init__(self, database: Database, hint: Callable[[int], None]) -> None:
        self._database = database
        self._hint = hint

    async def activate(self, deployed: Deployed) -> bool:
        """Move `active_version` to the target; False if somebody chose another meanwhile."""
        number = deployed.app.target_version
        before = deployed.app.active_version
        async with self._database.transaction() as tx:
            app = await _unless_retargeted(tx, deployed)
            if app is None:
                return False
            if before:
                await tx.versions.move(app.id, before, VersionStatus.SUPERSEDED)
            await tx.versions.move(app.id, number, VersionStatus.ACTIVE)
            # A first version counts as deployed once the gateways know its host names: `observe`.
            state = DeploymentState.DEPLOYED if before else app.state
            app = await tx.apps.activate(app, number, state)
        deployed.app = app
        if before not in deployed.trials:
            deployed.versions.pop(before, None)
        logger.info(
            "version active", extra={"app": app.ref.id, "version": number, "before": before}
        )
        return True

    async def give_up(self, deployed: Deployed, reason: str, message: str) -> bool:
        """Record a failed rollout; the active version serves on. False as in `activate`."""
        number = deployed.app.target_version
        async with self._database.transaction() as tx:
            app = await _unless_retargeted(tx, deployed)
            if app is None:
                return False
            # A version that has served before stays whole.
            await tx.versions.move(
                app.id, number, VersionStatus.FAILED, error=message, reason=reason
            )
            state = app.state if app.active_version else DeploymentState.FAILED
            app = await tx.apps.give_up_target(app, state, message, reason)
        deployed.app = app
        if number not in deployed.trials:
            deployed.versions.pop(number, None)
        logger.warning(
            "version failed", extra={"app": app.ref.id, "version": number, "reason": reason}
        )
        return True

    async def observe(
        self, deployed: Deployed, seen: AppStatus, status: WorkloadStatus | None
    ) -> None:
        """Write what runs, where it differs from what was written last and is not just passing.

        Nothing is written over a newer generation: its own round will do that.
        """
        if self._lets_pass(deployed, seen, status):
            return
        if not self.differs(deployed, seen, status) and deployed.recorded == seen:
            return
        app = deployed.app
        state = deployment_state(app, deployed.target, status, seen.desired_replicas)
        async with self._database.transaction() as tx:
            if not await tx.status.record(app.id, app.generation, state, seen):
                deployed.is_stale = True
                return
        deployed.recorded = seen
        deployed.app = replace(app, state=state, observed_generation=app.generation)

    def _lets_pass(
        self, deployed: Deployed, seen: AppStatus, status: WorkloadStatus | None
    ) -> bool:
        """Tell whether to wait, for a moment, until what is passing has passed."""
        if self.is_passing(deployed, seen, status) and not deployed.is_due:
            if deployed.passing is None:
                deployed.passing = asyncio.get_running_loop().call_later(
                    _PASSING_SECS, self._due, deployed
                )
            return True
        if deployed.passing is not None:
            deployed.passing.cancel()
            deployed.passing = None
        deployed.is_due = False
        return False

    def _due(self, deployed: Deployed) -> None:
        deployed.is_due = True
        self._hint(deployed.app.id)

    @staticmethod
    def is_passing(deployed: Deployed, seen: AppStatus, status: WorkloadStatus | None) -> bool:
        """Tell whether what runs is about to change by itself: replicas start or end.

        Only of an app of which nothing else is to be told: no publish, no new config, no trouble.
        """
        app = deployed.app
        if deployed.is_rolling or not app.active_version or seen.error_reason:
            return False
        if app.observed_generation < app.generation:
            return False
        if any(replica.state != ReplicaState.READY for replica in seen.replicas):
            return True
        serving = sum(1 for replica in seen.replicas if replica.version == app.active_version)
        return serving != seen.desired_replicas and not (status and status.reason)

    @staticmethod
    def differs(deployed: Deployed, seen: AppStatus, status: WorkloadStatus | None) -> bool:
        """Tell whether the record says anything else about the app as a whole."""
        app = deployed.app
        state = deployment_state(app, deployed.target, status, seen.desired_replicas)
        return app.observed_generation < app.generation or app.state is not state


async def _unless_retargeted(tx: Transaction, deployed: Deployed) -> App | None:
    """Lock and return the app; None, and it is stale, when its target is another by now."""
    app = await tx.apps.get_by_id(deployed.app.id, lock=True)
    if app is None or app.target_version != deployed.app.target_version:
        deployed.is_stale = True
        return None
    return app
