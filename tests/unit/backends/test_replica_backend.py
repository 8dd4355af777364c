"""ReplicaBackend over a driver in memory: order, back-off, restarts, and what must never end it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from tests.fakes.clock import loop_now, settle
from tests.fakes.replicas import FakeDrain, FakeDriver
from tests.support.workloads import spec_of, with_env

from ignite.backends.replicas import ReplicaBackend
from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.workloads import Replica, ReplicaState

SPEC = spec_of()
KEY = SPEC.ref.key


@dataclass(slots=True, kw_only=True)
class Rig:
    """A running backend and what is around it."""

    backend: ReplicaBackend
    driver: FakeDriver
    drain: FakeDrain

    def states(self) -> list[ReplicaState]:
        return [replica.state for replica in self.backend.status(KEY).replicas]

    def replicas(self) -> tuple[Replica, ...]:
        return self.backend.status(KEY).replicas

    def reason(self) -> str:
        return self.backend.status(KEY).reason


@asynccontextmanager
async def running(driver: FakeDriver | None = None) -> AsyncIterator[Rig]:
    rig_driver = driver or FakeDriver()
    drain = FakeDrain()
    backend = ReplicaBackend(rig_driver, drain, now=loop_now, stop_grace_secs=30)
    up = asyncio.Event()
    task = asyncio.ensure_future(backend.run(up.set))
    try:
        await settle()
        yield Rig(backend=backend, driver=rig_driver, drain=drain)
        assert not task.done(), "the backend has ended"
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_workload_gets_as_many_replicas_as_asked_for() -> None:
    async with running() as rig:
        await rig.backend.apply(spec_of(3))
        await settle()
        assert rig.states() == [ReplicaState.READY] * 3


async def test_an_equal_spec_starts_nothing() -> None:
    async with running() as rig:
        for _ in range(5):
            await rig.backend.apply(spec_of(1))
        await settle()
        await rig.backend.apply(spec_of(1))
        await settle()
        assert len(rig.driver.specs) == 1


async def test_a_replica_is_stopped_only_after_it_was_routed_away() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        await settle()
        rig.drain.gate.clear()
        await rig.backend.apply(spec_of(0))
        await settle()
        assert rig.drain.away == rig.driver.of(KEY)
        assert rig.driver.stops == []
        assert rig.states() == [ReplicaState.DRAINING]
        rig.drain.gate.set()
        await settle()
        assert rig.states() == []


async def test_a_replica_gets_the_apps_timeout_to_finish() -> None:
    async with running() as rig:
        slow = replace(SPEC, timeout_secs=600)
        await rig.backend.apply(slow)
        await settle()
        await rig.backend.remove(KEY)
        await settle()
        assert [grace for _, grace, _ in rig.driver.stops] == [600]


async def test_scaling_in_takes_those_that_start_and_then_the_youngest() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(spec_of(1))
        await settle()
        oldest = driver.of(KEY)[0]
        driver.make_ready(oldest)
        await asyncio.sleep(1)
        await rig.backend.apply(spec_of(3))
        await settle()
        second, third = driver.of(KEY)[1:]
        driver.make_ready(third)
        await settle()
        await rig.backend.apply(spec_of(2))
        await settle()
        assert [stop[0] for stop in driver.stops] == [second]
        await rig.backend.apply(spec_of(1))
        await settle()
        assert [stop[0] for stop in driver.stops] == [second, third]


async def test_replicas_found_at_the_start_are_left_alone_until_told() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        await rig.backend.apply(spec_of(2))
        await settle()
        before = driver.of(KEY)
    async with running(driver) as rig:
        await asyncio.sleep(30)
        assert driver.stops == []
        assert [r.id for r in (await rig.backend.observe())[KEY].ready] == before
        await rig.backend.apply(spec_of(2))
        await asyncio.sleep(30)
        assert driver.of(KEY) == before
        assert driver.stops == []


async def test_replicas_found_at_the_start_go_when_nobody_wants_them() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        await rig.backend.apply(spec_of(2))
        await settle()
    async with running(driver) as rig:
        await rig.backend.remove(KEY)
        await settle()
        assert driver.of(KEY) == []
        assert await rig.backend.observe() == {}


async def test_an_old_config_found_at_the_start_is_still_known_as_such() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        old = driver.of(KEY)
    async with running(driver) as rig:
        await rig.backend.apply(with_env(SPEC, GREETING="goodbye"))
        await settle()
        assert driver.of(KEY) != old
        assert [stop[0] for stop in driver.stops] == old


async def test_a_new_config_rolls_without_a_moment_without_ready_replicas() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(spec_of(2))
        await settle()
        old = driver.of(KEY)
        for replica_id in old:
            driver.make_ready(replica_id)
        await settle()
        await rig.backend.apply(with_env(spec_of(2), GREETING="goodbye"))
        await settle()
        new = [replica_id for replica_id in driver.of(KEY) if replica_id not in old]
        assert len(new) == 2
        driver.make_ready(new[0])
        await settle()
        assert driver.stops == []
        driver.make_ready(new[1])
        await settle()
        assert sorted(stop[0] for stop in driver.stops) == sorted(old)


async def test_a_new_config_that_cannot_start_leaves_the_old_replicas() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        old = driver.of(KEY)[0]
        driver.make_ready(old)
        await settle()
        await rig.backend.apply(with_env(SPEC, GREETING="broken"))
        await settle()
        driver.end(driver.of(KEY)[1], reason="ImportFailed")
        await settle()
        assert [r.id for r in rig.backend.status(KEY).ready] == [old]
        assert rig.reason() == "ImportFailed"


async def test_a_replica_of_an_old_config_that_never_got_ready_goes_at_once() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        old = driver.of(KEY)[0]
        await rig.backend.apply(with_env(SPEC, GREETING="goodbye"))
        await settle()
        assert [stop[0] for stop in driver.stops] == [old]


async def test_a_failed_start_tells_why_and_is_tried_again_after_a_while() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        driver.end(driver.of(KEY)[0], reason="ImportFailed", message="no module named x")
        await settle()
        assert (rig.reason(), rig.states()) == ("ImportFailed", [])
        await asyncio.sleep(0.9)
        assert driver.of(KEY) == []
        await asyncio.sleep(0.2)
        assert rig.reason() == ""
        assert len(driver.of(KEY)) == 1


async def test_a_start_that_is_refused_tells_why_at_once() -> None:
    driver = FakeDriver(refusal=PermanentError("no such runtime", reason="RuntimeMissing"))
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        assert rig.reason() == "RuntimeMissing"


async def test_a_crash_loop_slows_down_to_once_a_minute() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        starts = 0
        for _ in range(3600):
            await asyncio.sleep(1)
            for replica_id in driver.of(KEY):
                starts += 1
                driver.end(replica_id)
        assert 55 <= starts <= 70


async def test_a_crash_after_ready_is_replaced_at_once_and_then_within_seconds() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        for longest in (0, 1, 2, 4, 4, 4):
            await settle()
            rig.driver.end(rig.driver.of(KEY)[0])
            await settle()
            assert rig.reason() == "", "what was ready can start: requests wait for the next one"
            if longest:
                assert rig.states() == []
                await asyncio.sleep(longest + 0.1)
            assert rig.states() == [ReplicaState.READY]


async def test_what_never_gets_ready_after_a_crash_tells_why() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        await settle()
        rig.driver.is_automatic = False
        rig.driver.end(rig.driver.of(KEY)[0])
        await settle()
        assert rig.reason() == ""
        rig.driver.end(rig.driver.of(KEY)[0])
        await settle()
        assert rig.reason() == "Crashed"


async def test_how_it_ended_is_told_until_a_replica_is_ready_again() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        driver.end(driver.of(KEY)[0], reason="StartTimeout", message="not ready within 6 s")
        await asyncio.sleep(1.1)
        status = rig.backend.status(KEY)
        assert status.alive, "it is tried again"
        assert (status.reason, status.trouble) == ("", "StartTimeout")
        assert status.trouble_message == "not ready within 6 s"
        driver.make_ready(driver.of(KEY)[0])
        await settle()
        assert rig.backend.status(KEY).trouble == ""


async def test_a_crash_after_long_service_counts_as_the_first() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        for _ in range(10):
            await asyncio.sleep(61)
            rig.driver.end(rig.driver.of(KEY)[0])
            await settle()
            assert rig.states() == [ReplicaState.READY]


async def test_replicas_that_fail_together_count_as_one_failure() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(spec_of(5))
        await settle()
        for replica_id in driver.of(KEY):
            driver.end(replica_id)
        await settle()
        await asyncio.sleep(1.1)
        assert len(driver.of(KEY)) == 5


async def test_another_config_is_tried_at_once_whatever_failed_before() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        for _ in range(8):
            await settle()
            for replica_id in driver.of(KEY):
                driver.end(replica_id)
            await asyncio.sleep(30)
        for replica_id in driver.of(KEY):
            driver.end(replica_id)
        await settle()
        await rig.backend.apply(with_env(SPEC, GREETING="fixed"))
        assert rig.reason() == ""
        await settle()
        assert len(driver.of(KEY)) == 1


async def test_a_driver_that_is_away_is_no_failure_of_the_app() -> None:
    async with running() as rig:
        rig.driver.leave()
        await rig.backend.apply(SPEC)
        for _ in range(100):
            await asyncio.sleep(0.2)
            assert rig.reason() == ""
        rig.driver.is_away = False
        await asyncio.sleep(2.5)
        assert rig.states() == [ReplicaState.READY]


async def test_a_driver_that_comes_back_empty_gets_new_replicas() -> None:
    async with running() as rig:
        await rig.backend.apply(spec_of(2))
        await settle()
        old = set(rig.driver.of(KEY))
        rig.driver.leave()
        rig.driver.is_away = False
        await asyncio.sleep(0.5)
        assert len(rig.driver.of(KEY)) == 2
        assert not old & set(rig.driver.of(KEY))
        assert rig.reason() == ""


async def test_a_driver_that_stops_in_order_leaves_no_back_off_behind() -> None:
    async with running() as rig:
        await rig.backend.apply(spec_of(3))
        await settle()
        for replica_id in rig.driver.of(KEY):
            rig.driver.end(replica_id, reason="Stopped")
        rig.driver.leave()
        await asyncio.sleep(5)
        assert rig.reason() == ""
        rig.driver.is_away = False
        await asyncio.sleep(2.5)
        assert rig.states() == [ReplicaState.READY] * 3


async def test_what_waits_for_the_driver_goes_on_when_it_is_back() -> None:
    async with running() as rig:
        rig.driver.failures.append(TemporaryError("stopping", after=timedelta(minutes=5)))
        await rig.backend.apply(SPEC)
        await settle()
        assert rig.states() == []
        rig.driver.break_watches()
        await asyncio.sleep(0.5)
        assert rig.states() == [ReplicaState.READY]


async def test_a_driver_that_stops_again_and_again_is_no_failure_of_the_app() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        for _ in range(5):
            await settle()
            rig.driver.end(rig.driver.of(KEY)[0], reason="Stopped")
            await settle()
            assert rig.states() == [ReplicaState.READY]


async def test_a_snapshot_during_a_start_call_starts_no_second_replica() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        driver.gate.clear()
        await rig.backend.apply(SPEC)
        await settle()
        rig.driver.break_watches()
        await asyncio.sleep(1)
        assert rig.states() == [ReplicaState.STARTING]
        driver.gate.set()
        await settle()
        assert len(driver.specs) == 1


async def test_a_watch_that_breaks_loses_nothing() -> None:
    async with running() as rig:
        await rig.backend.apply(SPEC)
        await settle()
        replica_id = rig.driver.of(KEY)[0]
        rig.driver.break_watches()
        await settle()
        rig.driver.end(replica_id)
        await asyncio.sleep(1)
        assert rig.states() == [ReplicaState.READY]
        assert rig.driver.of(KEY) != [replica_id]


async def test_a_replica_retired_during_its_start_call_is_stopped_after_it() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        driver.gate.clear()
        await rig.backend.apply(SPEC)
        await settle()
        await rig.backend.remove(KEY)
        await settle()
        driver.gate.set()
        await asyncio.sleep(5)
        assert driver.of(KEY) == []
        assert await rig.backend.observe() == {}


async def test_a_removed_workload_that_is_wanted_again_gets_a_new_replica() -> None:
    driver = FakeDriver()
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        old = driver.of(KEY)[0]
        rig.drain.gate.clear()
        await rig.backend.remove(KEY)
        await settle()
        await rig.backend.apply(SPEC)
        await settle()
        assert len(rig.backend.status(KEY).ready) == 1
        rig.drain.gate.set()
        await settle()
        assert old not in driver.of(KEY)
        assert len(driver.of(KEY)) == 1


async def test_a_removed_workload_is_forgotten_with_its_failure() -> None:
    driver = FakeDriver(is_automatic=False)
    async with running(driver) as rig:
        await rig.backend.apply(SPEC)
        await settle()
        driver.end(driver.of(KEY)[0])
        await settle()
        await rig.backend.remove(KEY)
        assert rig.reason() == ""
        await asyncio.sleep(120)
        assert await rig.backend.observe() == {}
        assert driver.of(KEY) == []


async def test_no_failure_of_one_replica_ends_the_backend() -> None:
    async with running() as rig:
        rig.driver.failures.append(ValueError("a bug in the driver"))
        await rig.backend.apply(SPEC)
        await settle()
        assert rig.reason() == "Internal"
        await asyncio.sleep(1.1)
        assert rig.states() == [ReplicaState.READY]
        rig.drain.failures.append(ValueError("a bug in the board"))
        rig.driver.failures.append(ValueError("a bug in stop"))
        await rig.backend.remove(KEY)
        await asyncio.sleep(5)
        assert rig.driver.of(KEY) == []


async def test_changes_are_heard_from_the_call_on() -> None:
    async with running() as rig:
        changes = rig.backend.changes()
        await rig.backend.apply(SPEC)
        await settle()
        assert await anext(changes) == KEY
