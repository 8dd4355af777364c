"""Lines of waiting requests: order, bounds, wakes, failures and races."""

import asyncio
import time
from dataclasses import dataclass, field, replace

import pytest

from ignite.domain.apps import AppRef
from ignite.domain.errors import DeadlineExceeded, NotFound, Unavailable
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint
from ignite.gateway.holding import Holding, HoldingLimits, Slot, WakeAnswer
from ignite.gateway.table import RouteTable, RouteUpdate, Target, ready_replica, tag_of

APP = AppRef(organization=OrganizationName("acme"), name="a")
TARGET = Target(app=APP)


@dataclass
class FakeWaker:
    answer: WakeAnswer = field(default_factory=lambda: WakeAnswer(ok=True))
    failures: int = 0
    wakes: list[Target] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def wake(self, target: Target) -> WakeAnswer:
        self.wakes.append(target)
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.woken.set()
        return self.answer


def route(*replicas: str, **changes: object) -> Route:
    base = Route(
        key="acme/a@1#aa",
        app=APP,
        organization_id=OrganizationId("org"),
        version=1,
        is_active=True,
        hostnames=("a-acme.x",),
        allow_unauthenticated=False,
        timeout_secs=5,
        max_concurrency=1,
        replicas=tuple(
            ready_replica("k", name, Endpoint(unix_path=f"/run/{name}")) for name in replicas
        ),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's shorthand


def table(*routes: Route) -> RouteTable:
    return RouteTable.of(1, routes)


def holding(waker: FakeWaker, first: RouteTable, **limits: float) -> Holding:
    bounds = HoldingLimits(
        per_app=int(limits.get("per_app", 100)),
        overall=int(limits.get("overall", 100)),
        budget_secs=limits.get("budget_secs", 5),
        default_max_concurrency=2,
    )
    return Holding(table=first, waker=waker, limits=bounds)


def ask(held: Holding, target: Target = TARGET) -> "asyncio.Task[Slot]":
    return asyncio.ensure_future(held.acquire(target, since=time.monotonic()))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def waker() -> FakeWaker:
    return FakeWaker()


class TestSlots:
    async def test_a_ready_replica_is_given_at_once_without_a_wake(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1")))
        assert (await ask(held)).replica.id == "r1"
        assert waker.wakes == []

    async def test_the_least_busy_replica_is_given(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1", "r2", max_concurrency=2)))
        given = [(await ask(held)).replica.id for _ in range(4)]
        assert sorted(given) == ["r1", "r1", "r2", "r2"]
        assert given[0] != given[1]

    async def test_zero_stands_for_the_platform_s_bound(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1", max_concurrency=0)))
        await ask(held)
        await ask(held)
        third = ask(held)
        await settle()
        assert not third.done()
        third.cancel()

    async def test_who_waits_is_served_in_order(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1")))
        slot = await ask(held)
        first, second = ask(held), ask(held)
        await settle()
        held.release(slot)
        await settle()
        assert (first.done(), second.done()) == (True, False)
        held.release(first.result())
        await second

    async def test_a_newcomer_does_not_pass_who_waits(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1")))
        slot = await ask(held)
        waiting = ask(held)
        await settle()
        newcomer = ask(held)
        held.release(slot)
        await settle()
        assert (waiting.done(), newcomer.done()) == (True, False)
        newcomer.cancel()

    async def test_a_paused_replica_is_passed_over_and_comes_back(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1", "r2")))
        slot = await ask(held)
        held.release(slot, pause=True)
        other = await ask(held)
        assert other.replica.id != slot.replica.id
        again = await asyncio.wait_for(ask(held), timeout=2)
        assert again.replica.id == slot.replica.id

    async def test_versions_share_the_slots_of_their_replicas(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1")))
        slot = await ask(held)
        by_number = ask(held, Target(app=APP, version=1))
        await settle()
        assert not by_number.done()
        held.release(slot)
        assert (await by_number).replica.id == "r1"

    async def test_a_slot_that_comes_as_its_caller_goes_is_not_lost(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route("r1")))
        slot = await ask(held)
        leaver, stayer = ask(held), ask(held)
        await settle()
        held.release(slot)
        leaver.cancel()
        assert (await asyncio.wait_for(stayer, timeout=1)).replica.id == "r1"
        assert held.held == 0


class TestWaking:
    async def test_many_wake_once(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()))
        waiting = [ask(held) for _ in range(20)]
        await asyncio.wait_for(waker.woken.wait(), timeout=1)
        await settle()
        assert (waker.wakes, held.held) == ([TARGET], 20)
        held.swap(table(route("r1", max_concurrency=50)))
        await asyncio.gather(*waiting)
        assert held.held == 0

    async def test_news_of_other_apps_wake_nobody_again(self, waker: FakeWaker) -> None:
        known = table(route())
        held = holding(waker, known)
        task = ask(held)
        await waker.woken.wait()
        other = route("r1", key="acme/b@1#bb", app=replace(APP, name="b"), hostnames=("b-acme.x",))
        for revision in range(2, 12):
            known = known.apply(
                RouteUpdate(revision=revision, is_snapshot=False, upserts=(other,), removed_keys=())
            )
            held.swap(known)
            await settle()
        assert waker.wakes == [TARGET]
        upserts = (route("r2"),)
        held.swap(
            known.apply(
                RouteUpdate(revision=12, is_snapshot=False, upserts=upserts, removed_keys=())
            )
        )
        assert (await task).replica.id == "r2"

    async def test_controllers_that_are_away_are_asked_again(self) -> None:
        waker = FakeWaker(failures=2)
        held = holding(waker, table(route()))
        waiting = ask(held)
        await asyncio.wait_for(waker.woken.wait(), timeout=3)
        assert len(waker.wakes) == 3
        held.swap(table(route("r1")))
        await waiting

    async def test_a_refusal_fails_everyone_who_waits(self) -> None:
        waker = FakeWaker(answer=WakeAnswer(ok=False, reason="QuotaReached", message="no"))
        held = holding(waker, table(route()))
        waiting = [ask(held) for _ in range(3)]
        for task in waiting:
            with pytest.raises(Unavailable) as caught:
                await task
            assert caught.value.reason == "QuotaReached"

    async def test_an_app_that_controllers_do_not_know_is_not_found(self) -> None:
        waker = FakeWaker(answer=WakeAnswer(ok=False, reason="AppNotFound", message="no"))
        held = holding(waker, table())
        with pytest.raises(NotFound):
            await ask(held)

    async def test_a_version_that_is_not_routed_yet_is_waited_for(self, waker: FakeWaker) -> None:
        held = holding(waker, table())
        waiting = ask(held, Target(app=APP, version=1))
        await asyncio.wait_for(waker.woken.wait(), timeout=1)
        held.swap(table(route("r1")))
        assert (await waiting).route.version == 1

    async def test_the_active_version_may_change_while_one_waits(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()))
        waiting = ask(held)
        await settle()
        held.swap(table(route("new", key="acme/a@2#bb", version=2)))
        assert (await waiting).route.version == 2


class TestFailures:
    async def test_a_known_failure_is_told_without_a_wake(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route(failure_reason="CrashLoop", failure_message="boom")))
        with pytest.raises(Unavailable, match="boom") as caught:
            await ask(held)
        assert caught.value.reason == "CrashLoop"
        assert waker.wakes == []

    async def test_a_failing_newest_replica_does_not_stop_those_that_serve(
        self, waker: FakeWaker
    ) -> None:
        held = holding(waker, table(route("r1", failure_reason="CrashLoop")))
        assert (await ask(held)).replica.id == "r1"

    async def test_a_failure_ends_the_wait(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()))
        waiting = ask(held)
        await settle()
        held.swap(table(route(failure_reason="StartTimeout")))
        with pytest.raises(Unavailable):
            await waiting

    async def test_the_budget_ends_the_wait(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()), budget_secs=0.05)
        with pytest.raises(DeadlineExceeded) as caught:
            await ask(held)
        assert caught.value.reason == "ColdStartTimeout"
        assert held.held == 0

    @pytest.mark.parametrize("bound", ["per_app", "overall"])
    async def test_waiting_is_bounded_but_dispatch_is_not(
        self, waker: FakeWaker, bound: str
    ) -> None:
        held = holding(waker, table(route()), **{bound: 2})
        waiting = [ask(held), ask(held)]
        await settle()
        with pytest.raises(Unavailable) as caught:
            await ask(held)
        assert caught.value.reason == "TooManyHeld"
        other = replace(
            route("o1", key="acme/b@1#cc"), app=AppRef(organization=APP.organization, name="b")
        )
        held.swap(table(route(), other))
        assert (await ask(held, Target(app=other.app))).replica.id == "o1"
        for task in waiting:
            task.cancel()

    async def test_closing_sends_everyone_away(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()))
        waiting = ask(held)
        await settle()
        held.close()
        for task in (waiting, ask(held)):
            with pytest.raises(Unavailable) as caught:
                await task
            assert caught.value.reason == "GatewayStopping"


class TestHosts:
    async def test_a_known_host_needs_no_controllers(self, waker: FakeWaker) -> None:
        held = holding(waker, table(route()))
        assert await held.route_of_host("a-acme.x:80") == route()

    async def test_a_host_on_no_disk_waits_until_controllers_have_told(
        self, waker: FakeWaker
    ) -> None:
        held = holding(waker, RouteTable())
        asked = asyncio.ensure_future(held.route_of_host("a-acme.x"))
        await settle()
        assert not asked.done()
        held.swap(table(route()))
        assert await asked == route()

    async def test_a_host_that_becomes_known_a_moment_later_is_found(
        self, waker: FakeWaker
    ) -> None:
        held = holding(waker, RouteTable())
        held.swap(RouteTable.of(1, []))
        asked = asyncio.ensure_future(held.route_of_host("a-acme.x"))
        await settle()
        held.swap(RouteTable.of(2, []))
        await settle()
        held.swap(table(route()))
        assert await asked == route()

    async def test_a_host_that_nobody_has_is_none(self, waker: FakeWaker) -> None:
        held = holding(waker, RouteTable())
        held.swap(table(route()))
        assert await held.route_of_host("b-acme.x") is None

    async def test_who_waits_for_routes_is_sent_away_by_a_stop(self, waker: FakeWaker) -> None:
        held = holding(waker, RouteTable())
        asked = asyncio.ensure_future(held.route_of_host("a-acme.x"))
        await settle()
        held.close()
        with pytest.raises(Unavailable) as caught:
            await asked
        assert caught.value.reason == "GatewayStopping"


class TestDrafts:
    """A draft saved again keeps its number; code that it replaced must not answer for it."""

    OLD = route("old", key="acme/a@0#old", version=0, is_active=False, hostnames=())
    NEW = route("new", key="acme/a@0#new", version=0, is_active=False, hostnames=())
    TARGET = Target(app=APP, version=0, tag=tag_of(NEW.key))

    async def test_replaced_code_that_is_warm_does_not_answer(self, waker: FakeWaker) -> None:
        waker.answer = WakeAnswer(ok=True, key=self.NEW.key)
        held = holding(waker, table(self.OLD))
        waiting = ask(held, self.TARGET)
        await asyncio.wait_for(waker.woken.wait(), 5)
        await settle()
        assert waker.wakes == [self.TARGET]
        assert not waiting.done()
        held.swap(table(self.OLD, self.NEW))
        assert (await waiting).replica.id == "new"

    async def test_code_that_was_replaced_meanwhile_is_refused(self, waker: FakeWaker) -> None:
        waker.answer = WakeAnswer(ok=True, key="acme/a@0#newest")
        held = holding(waker, table())
        with pytest.raises(Unavailable) as caught:
            await ask(held, self.TARGET)
        assert caught.value.reason == "DraftChanged"

    async def test_who_waits_for_a_full_draft_gets_the_slot_that_is_given_back(
        self, waker: FakeWaker
    ) -> None:
        held = holding(waker, table(self.NEW))
        slot = await ask(held, self.TARGET)
        waiting = ask(held, self.TARGET)
        await settle()
        assert not waiting.done()
        held.release(slot)
        assert (await waiting).replica.id == "new"
