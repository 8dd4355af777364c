"""Whatever is asked for in whatever order, with restarts in between: in the end it is so.

Each seed is one history of calls, failures and restarts; what must hold afterwards is the same for
all. A failure names its seed, and the history is in the log.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

import pytest
from tests.support.compute import ACME
from tests.support.deployments import Rig, rigged, until

from ignite.domain.apps import App, AppRef, DeploymentState, Scaling
from ignite.domain.deployments import workload_ref
from ignite.domain.errors import IgniteError
from ignite.domain.workloads import ReplicaState

STEPS = 60
REFS = [AppRef(organization=ACME.name, name=name) for name in ("a", "b", "c")]


@dataclass(slots=True)
class History:
    """Does random things to a rig."""

    rig: Rig
    rng: random.Random
    done: list[str] = field(default_factory=list)

    async def step(self) -> None:
        ref = self.rng.choice(REFS)
        choices = [
            (self._create, 3),
            (self._publish, 5),
            (self._publish_uncompiled, 2),
            (self._end_build, 4),
            (self._roll_back, 3),
            (self._wake, 4),
            (self._configure, 3),
            (self._delete, 1),
            (self._become_ready, 4),
            (self._fail, 2),
            (self._lose, 1),
            (self._flip_manual, 2),
            (self._restart, 1),
            (self._pause, 4),
        ]
        [(act, _)] = self.rng.choices(choices, [weight for _, weight in choices])
        self.done.append(f"{act.__name__} {ref.name}")
        # Asking for what cannot be is part of it.
        with contextlib.suppress(IgniteError):
            await act(ref)

    async def _create(self, ref: AppRef) -> None:
        reserved = self.rng.choice([0, 0, 1, 2])
        await self.rig.create(ref, scaling=Scaling(reserved_capacity=reserved))

    async def _publish(self, ref: AppRef) -> None:
        await self.rig.publish(self.rng.randbytes(4).hex().encode(), ref)

    async def _publish_uncompiled(self, ref: AppRef) -> None:
        await self.rig.save(self.rng.randbytes(4).hex().encode(), ref)
        await self.rig.drafts.publish(ref)

    async def _end_build(self, _ref: AppRef) -> None:
        with contextlib.suppress(AssertionError):
            if self.rng.random() < 0.3:
                await self.rig.end_build(error="no", reason="CompileFailed")
            else:
                await self.rig.end_build()

    async def _roll_back(self, ref: AppRef) -> None:
        await self.rig.versions.roll_back(ref, self.rng.randint(1, 3))

    async def _wake(self, ref: AppRef) -> None:
        await self.rig.controller.deployments.wake(ref, self.rng.choice([None, 0, 1, 2]))

    async def _configure(self, ref: AppRef) -> None:
        if self.rng.random() < 0.5:
            await self.rig.configure(ref, env={"N": str(self.rng.random())})
        else:
            reserved = self.rng.choice([0, 1, 3])
            await self.rig.configure(ref, scaling=Scaling(reserved_capacity=reserved))

    async def _delete(self, ref: AppRef) -> None:
        await self.rig.apps.delete(ref)

    async def _become_ready(self, _ref: AppRef) -> None:
        if (version := self._some_version()) is not None:
            self.rig.backend.make_ready(version)

    async def _fail(self, _ref: AppRef) -> None:
        if (version := self._some_version()) is not None:
            self.rig.backend.fail(version, "Crashed", "it crashed")

    async def _lose(self, _ref: AppRef) -> None:
        """All replicas go, as with the spawner, and come again as far as wanted."""
        for key, workload in list(self.rig.backend.workloads.items()):
            workload.replicas.clear()
            self.rig.backend._start_missing(key)
            self.rig.backend._hint(key)

    async def _flip_manual(self, _ref: AppRef) -> None:
        self.rig.backend.manual ^= {self.rng.randint(0, 3)}

    async def _restart(self, _ref: AppRef) -> None:
        await self.rig.restart()

    async def _pause(self, _ref: AppRef) -> None:
        await asyncio.sleep(self.rng.random() * 0.1)

    def _some_version(self) -> int | None:
        versions = [found.spec.ref.version for found in self.rig.backend.workloads.values()]
        alone = [version for version in versions if versions.count(version) == 1]
        return self.rng.choice(alone) if alone else None


async def quiet(rig: Rig) -> list[App]:
    """Let everything that can start do so, and nobody ask for anything; return the apps."""
    backend = rig.backend
    backend.manual = set()
    async with asyncio.timeout(60):
        while True:
            rig.controller.autoscaler.report("gw", {})
            with contextlib.suppress(AssertionError):
                await rig.end_build()
            for key, workload in list(backend.workloads.items()):
                workload.reason = workload.message = ""
                backend._start_missing(key)
                for replica in workload.replicas.values():
                    if replica.state is ReplicaState.STARTING:
                        workload.replicas.clear()
                        backend._start_missing(key)
                        break
                backend._hint(key)
            await asyncio.sleep(0.1)
            async with rig.database.transaction() as tx:
                apps = await tx.apps.page_after(0, 100)
            serving = {await active(rig, app) for app in apps}
            if set(backend.workloads) <= serving and all(is_settled(app) for app in apps):
                return list(apps)


def is_settled(app: App) -> bool:
    return app.target_version == app.active_version and app.observed_generation == app.generation


async def active(rig: Rig, app: App) -> str:
    """Return the key of the Workload that serves, or ""."""
    if not app.active_version:
        return ""
    async with rig.database.transaction() as tx:
        version = await tx.versions.get(app.id, app.active_version)
    assert version is not None
    return workload_ref(app, version).key


@pytest.mark.parametrize("seed", range(6))
async def test_in_the_end_it_is_so(database_url: str, seed: int) -> None:
    async with rigged(database_url) as rig:
        history = History(rig, random.Random(seed))
        try:
            for ref in REFS:
                await rig.create(ref)
                await rig.live(f"{ref.name} 1".encode(), ref)
                await rig.live(f"{ref.name} 2".encode(), ref)
                assert (await rig.controller.deployments.wake(ref, 1)).ok
            for _ in range(STEPS):
                await history.step()
            apps = await quiet(rig)
            serving = {key for app in apps if (key := await active(rig, app))}
            await until(lambda: {route.key for route in rig.routes()} == serving)
            assert set(rig.backend.workloads) <= serving
            for app in apps:
                await assert_is_so(rig, app)
        finally:
            print(f"seed {seed}:", *history.done, sep="\n  ")


async def assert_is_so(rig: Rig, app: App) -> None:
    """Check what must hold of one app that is left alone."""
    key = await active(rig, app)
    if not key:
        assert app.state in (DeploymentState.CREATED, DeploymentState.FAILED)
        return
    reserved = app.config.scaling.reserved_capacity
    await until(lambda: len(rig.backend.status(key).ready) >= reserved)
    route = rig.route(f"{app.ref.name}-acme.apps.test")
    assert route is not None
    assert route.key == key
    await until(lambda: _is_recorded(rig, app.ref, key))


async def _is_recorded(rig: Rig, ref: AppRef, key: str) -> bool:
    app, status = await rig.apps.state(ref)
    is_warm = bool(rig.backend.status(key).ready)
    expected = DeploymentState.DEPLOYED if is_warm else DeploymentState.COLD
    known = {replica.id for replica in status.replicas}
    return app.state is expected and known == {r.id for r in rig.backend.status(key).replicas}
