"""Workloads on one machine: keeps as many replicas as asked for, through a driver.

What is to be done is decided in `workload`; here it is done. No failure of one replica, whatever it
is, may end the component: all others depend on it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta

from ignite.backends.keys import KeyQueue
from ignite.backends.workload import Workload, new_replica
from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.workloads import Replica, ReplicaState, WorkloadSpec, WorkloadStatus
from ignite.ports.replicas import ReplicaChanges, ReplicaDriver
from ignite.ports.routes import Drain

logger = logging.getLogger(__name__)

_WATCH_AGAIN_SECS = (0.05, 2.0)
_STOP_AGAIN = timedelta(seconds=1)


class ReplicaBackend:
    """`ports.backend.RuntimeBackend` over a ReplicaDriver. A Component: run it to converge.

    Replicas that it finds when it starts are left as they are until `apply` or `remove` tells what
    is wanted of their Workload.
    """

    name = "replica-backend"

    def __init__(
        self,
        driver: ReplicaDriver,
        drain: Drain,
        *,
        now: Callable[[], datetime],
        stop_grace_secs: float,
    ) -> None:
        self._driver = driver
        self._drain = drain
        self._now = now
        self._stop_grace_secs = stop_grace_secs
        self._workloads: dict[str, Workload] = {}
        self._dirty = KeyQueue()
        self._hints: list[KeyQueue] = []
        self._known = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}

    async def apply(self, spec: WorkloadSpec) -> None:
        """Make the Workload so. An equal spec changes nothing."""
        workload = self._workload(spec.ref.key)
        if workload.want(spec):
            self._forget_timer_unless_waiting(workload)
            self._dirty.put(workload.key)

    async def remove(self, key: str) -> None:
        """Drain, stop and forget the Workload. An absent one is success."""
        workload = self._workloads.get(key)
        if workload is not None and not workload.is_removed:
            workload.is_removed = True
            workload.forgive()
            self._forget_timer_unless_waiting(workload)
            self._dirty.put(key)

    async def observe(self) -> Mapping[str, WorkloadStatus]:
        """Return all Workloads by key; waits for the driver's first snapshot."""
        await self._known.wait()
        return {key: workload.status() for key, workload in self._workloads.items()}

    def status(self, key: str) -> WorkloadStatus:
        """Return one Workload as it is now; an unknown one has no replicas."""
        workload = self._workloads.get(key)
        return workload.status() if workload else WorkloadStatus(key=key, replicas=())

    def changes(self) -> AsyncIterator[str]:
        """Yield keys of Workloads that change from this call on; one that waits is not repeated."""
        queue = KeyQueue()
        self._hints.append(queue)
        return self._changes(queue)

    async def _changes(self, queue: KeyQueue) -> AsyncIterator[str]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._hints.remove(queue)

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow the driver and converge until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch())
            await self._known.wait()
            ready()
            while True:
                key = await self._dirty.get()
                try:
                    self._converge(key)
                except Exception:  # the others go on
                    logger.exception("workload not converged", extra={"workload": key})

    def _workload(self, key: str) -> Workload:
        return self._workloads.setdefault(key, Workload(key))

    def _touch(self, key: str) -> None:
        self._dirty.put(key)
        self._hint(key)

    def _hint(self, key: str) -> None:
        for queue in self._hints:
            queue.put(key)

    # -- following the driver --------------------------------------------------------------------

    async def _watch(self) -> None:
        first, longest = _WATCH_AGAIN_SECS
        delay = first
        while True:
            try:
                async with aclosing(self._driver.watch()) as watching:
                    async for changes in watching:
                        delay = first
                        self._take(changes)
            except TemporaryError as error:
                logger.warning("replica driver is gone", extra={"error": str(error)})
            except Exception:  # what it says cannot be read: look again
                logger.exception("replica driver cannot be followed")
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)

    def _take(self, changes: ReplicaChanges) -> None:
        if changes.is_snapshot:
            self._forget_all_but({replica.id for replica in changes.replicas})
        for replica in changes.replicas:
            self._see(replica)
        if changes.is_snapshot:
            for workload in self._workloads.values():
                if workload.waits_for_driver:
                    self._retry(workload.key)
            self._known.set()

    def _forget_all_but(self, living: set[str]) -> None:
        for workload in self._workloads.values():
            gone = workload.replicas.keys() - living - self._starting.keys()
            for replica_id in gone:
                workload.forget(replica_id)
            if gone:
                logger.warning(
                    "replicas are gone", extra={"workload": workload.key, "count": len(gone)}
                )
                self._touch(workload.key)

    def _see(self, replica: Replica) -> None:
        workload = self._workload(replica.workload)
        delay = workload.see(replica, self._now())
        if delay is not None:
            logger.warning(
                "replica ended",
                extra={
                    "replica": replica.id,
                    "workload": workload.key,
                    "reason": replica.reason,
                    "failures": workload.failures,
                },
            )
            self._postpone(workload, delay)
        self._touch(workload.key)

    # -- back-off --------------------------------------------------------------------------------

    def _postpone(self, workload: Workload, delay: timedelta) -> None:
        workload.retry_at = self._now() + delay
        if (old := self._timers.pop(workload.key, None)) is not None:
            old.cancel()
        self._timers[workload.key] = asyncio.get_running_loop().call_later(
            delay.total_seconds(), self._retry, workload.key
        )

    def _retry(self, key: str) -> None:
        workload = self._workloads.get(key)
        if workload is not None:
            workload.end_back_off()
            self._forget_timer_unless_waiting(workload)
            self._touch(key)

    def _forget_timer_unless_waiting(self, workload: Workload) -> None:
        if workload.retry_at is None and (timer := self._timers.pop(workload.key, None)):
            timer.cancel()

    # -- converging ------------------------------------------------------------------------------

    def _converge(self, key: str) -> None:
        workload = self._workloads.get(key)
        if workload is None:
            return
        if workload.is_over:
            workload.forgive()
            self._forget_timer_unless_waiting(workload)
            del self._workloads[key]
            return
        steps = workload.plan()
        for _ in range(steps.start):
            self._start(workload)
        for replica, why in steps.retire:
            self._retire(workload, replica, why)

    def _start(self, workload: Workload) -> None:
        assert workload.spec is not None
        assert self._group is not None
        replica = new_replica(workload.key, workload.spec, self._now())
        workload.replicas[replica.id] = replica
        self._starting[replica.id] = self._group.create_task(
            self._start_one(replica, workload.spec)
        )

    async def _start_one(self, replica: Replica, spec: WorkloadSpec) -> None:
        try:
            await self._driver.start(replica.id, spec)
        except PermanentError as error:
            self._see(_failed(replica, error.reason, error.message))
        except TemporaryError as error:
            self._put_off(replica, error)
        except Exception:  # a bug of ours must not take the other apps down
            logger.exception("replica not started", extra={"replica": replica.id})
            self._see(_failed(replica, "Internal", "internal error"))
        finally:
            del self._starting[replica.id]

    def _put_off(self, replica: Replica, error: TemporaryError) -> None:
        """Try again soon; that the driver is away is no failure of the app."""
        logger.warning("replica not started", extra={"replica": replica.id, "error": str(error)})
        workload = self._workload(replica.workload)
        workload.forget(replica.id)
        if workload.retry_at is None:
            workload.waits_for_driver = True
            self._postpone(workload, error.after)
        self._touch(workload.key)

    def _retire(self, workload: Workload, replica: Replica, why: str) -> None:
        assert self._group is not None
        workload.leaving.add(replica.id)
        self._hint(workload.key)
        grace = self._stop_grace_secs
        if workload.spec is not None:
            grace = max(grace, workload.spec.timeout_secs)
        self._group.create_task(self._retire_one(replica, grace, why))

    async def _retire_one(self, replica: Replica, grace: float, why: str) -> None:
        if (starting := self._starting.get(replica.id)) is not None:
            # A stop that overtakes the start would stop nothing.
            await asyncio.wait([starting])
        try:
            await self._drain.route_away([replica.id])
        except Exception:  # what cannot be routed away must end all the same
            logger.exception("replica not routed away", extra={"replica": replica.id})
        while True:
            after = _STOP_AGAIN
            try:
                await self._driver.stop(replica.id, grace, why)
            except TemporaryError as error:
                after = error.after
                logger.warning(
                    "replica not stopped yet", extra={"replica": replica.id, "error": str(error)}
                )
            except Exception:
                logger.exception("replica not stopped yet", extra={"replica": replica.id})
            else:
                return
            await asyncio.sleep(after.total_seconds())


def _failed(replica: Replica, reason: str, message: str) -> Replica:
    return replace(replica, state=ReplicaState.FAILED, reason=reason, message=message)
