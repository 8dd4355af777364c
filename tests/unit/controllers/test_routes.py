"""The board of routes: steps, snapshots, acknowledgements."""

import asyncio
import time
from datetime import UTC, datetime

from tests.fakes.clock import settle

from ignite.controllers import routes as board_module
from ignite.controllers.routes import RouteBoard, RouteStep
from ignite.domain.apps import AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint, Replica, ReplicaState


def route(key: str = "a", *replicas: str, version: int = 1) -> Route:
    return Route(
        key=key,
        app=AppRef(organization=OrganizationName("acme"), name="hello"),
        organization_id=OrganizationId("01ACME"),
        version=version,
        is_active=True,
        hostnames=("hello-acme.apps.test",),
        allow_unauthenticated=False,
        timeout_secs=60,
        max_concurrency=16,
        replicas=tuple(
            Replica(
                id=replica,
                workload=key,
                state=ReplicaState.READY,
                endpoint=Endpoint(unix_path=f"/r/{replica}/s"),
                started_at=datetime(2030, 1, 1, tzinfo=UTC),
            )
            for replica in replicas
        ),
    )


def opened() -> RouteBoard:
    """Return an open board that waits for nobody of an earlier process any more."""
    board = RouteBoard()
    board.open()
    board._gateways.clear()
    return board


class Gateway:
    """Applies steps as gateways do, and acknowledges them when told to."""

    def __init__(self, board: RouteBoard, name: str = "gw", known: int = 0) -> None:
        self.routes: dict[str, Route] = {}
        self.revision = 0
        self.snapshots = 0
        self._board = board
        self._name = name
        self._task = asyncio.ensure_future(self._follow(board.watch(name, known)))

    async def _follow(self, steps: object) -> None:
        async for step in steps:  # type: ignore[attr-defined]
            self._apply(step)

    def _apply(self, step: RouteStep) -> None:
        if step.is_snapshot:
            self.routes.clear()
            self.snapshots += 1
        for key in step.removed:
            self.routes.pop(key, None)
        self.routes.update({route.key: route for route in step.upserts})
        self.revision = step.revision

    def acknowledge(self) -> None:
        self._board.acknowledge(self._name, self.revision)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_a_new_gateway_gets_everything_and_then_what_changes() -> None:
    board = opened()
    board.put(route("a"))
    gateway = Gateway(board)
    await settle()
    assert gateway.routes == {"a": route("a")}
    board.put(route("b"))
    board.drop("a")
    await settle()
    assert gateway.routes == {"b": route("b")}
    assert gateway.snapshots == 1
    await gateway.leave()


async def test_a_gateway_that_comes_back_gets_what_it_missed() -> None:
    board = opened()
    board.put(route("a"))
    board.put(route("b"))
    known = board.revision
    board.drop("a")
    board.put(route("c"))
    step = await anext(board.watch("gw", known))
    assert not step.is_snapshot
    assert (step.removed, [r.key for r in step.upserts]) == (("a",), ["c"])


async def test_a_gateway_that_knows_everything_gets_an_empty_step() -> None:
    board = opened()
    board.put(route("a"))
    step = await anext(board.watch("gw", board.revision))
    assert (step.is_snapshot, step.upserts, step.removed) == (False, (), ())


async def test_a_revision_of_another_process_is_answered_with_everything() -> None:
    board = opened()
    board.put(route("a"))
    for known in (0, 1, board.revision - 2, board.revision + 1, time.time_ns()):
        step = await anext(board.watch("gw", known))
        assert step.is_snapshot
        assert [r.key for r in step.upserts] == ["a"]


async def test_a_gateway_that_missed_more_than_is_remembered_gets_everything() -> None:
    board = opened()
    board.put(route("old"))
    known = board.revision
    board.drop("old")
    for number in range(board_module._LOG_LENGTH):
        board.put(route("a", str(number)))
    step = await anext(board.watch("gw", known))
    assert step.is_snapshot
    assert [r.key for r in step.upserts] == ["a"]


async def test_an_equal_route_is_no_step() -> None:
    board = opened()
    board.put(route("a", "one"))
    before = board.revision
    board.put(route("a", "one"))
    board.drop("b")
    assert board.revision == before


async def test_nobody_is_told_anything_before_everything_is_known() -> None:
    board = RouteBoard()
    gateway = Gateway(board)
    board.put(route("a"))
    await asyncio.sleep(100)
    assert gateway.snapshots == 0
    board.put(route("b"))
    board.open()
    await settle()
    assert set(gateway.routes) == {"a", "b"}
    await gateway.leave()


async def test_routing_away_waits_for_every_gateway() -> None:
    board = opened()
    board.put(route("a", "one", "two"))
    first, second = Gateway(board, "first"), Gateway(board, "second")
    await settle()
    away = asyncio.ensure_future(board.route_away(["one"]))
    await settle()
    assert [replica.id for replica in first.routes["a"].replicas] == ["two"]
    first.acknowledge()
    await settle()
    assert not away.done()
    second.acknowledge()
    await settle()
    assert away.done()
    await first.leave()
    await second.leave()


async def test_an_acknowledgement_of_an_older_step_does_not_count() -> None:
    board = opened()
    board.put(route("a", "one"))
    gateway = Gateway(board)
    await settle()
    before = gateway.revision
    away = asyncio.ensure_future(board.route_away(["one"]))
    await settle()
    board.acknowledge("gw", before)
    await settle()
    assert not away.done()
    board.acknowledge("gw", time.time_ns())
    await settle()
    assert not away.done(), "a revision that is not ours says nothing"
    gateway.acknowledge()
    await settle()
    assert away.done()
    await gateway.leave()


async def test_a_gateway_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    board = opened()
    board.put(route("a", "one"))
    gateway = Gateway(board)
    await settle()
    loop = asyncio.get_running_loop()
    started = loop.time()
    await board.route_away(["one"])
    assert loop.time() - started == 5
    await gateway.leave()


async def test_a_gateway_that_has_just_gone_may_still_route_and_is_waited_for() -> None:
    board = opened()
    board.put(route("a", "one"))
    gateway = Gateway(board)
    await settle()
    gateway.acknowledge()
    await gateway.leave()
    away = asyncio.ensure_future(board.route_away(["one"]))
    await asyncio.sleep(1)
    assert not away.done()
    gateway = Gateway(board)
    await settle()
    gateway.acknowledge()
    await settle()
    assert away.done()
    await gateway.leave()


async def test_a_gateway_that_is_gone_for_good_is_forgotten() -> None:
    board = opened()
    gateway = Gateway(board)
    await settle()
    await gateway.leave()
    await asyncio.sleep(6)
    board.put(route("a", "one"))
    await asyncio.wait_for(board.route_away(["one"]), 0.1)


async def test_a_stream_that_ends_behind_its_successor_forgets_nobody() -> None:
    board = opened()
    board.put(route("a", "one"))
    old = Gateway(board)
    await settle()
    new = Gateway(board)
    await settle()
    await old.leave()
    await asyncio.sleep(10)
    away = asyncio.ensure_future(board.route_away(["one"]))
    await asyncio.sleep(1)
    assert not away.done()
    new.acknowledge()
    await settle()
    assert away.done()
    await new.leave()


async def test_a_restarted_gateway_has_to_acknowledge_anew() -> None:
    board = opened()
    board.put(route("a", "one"))
    gateway = Gateway(board)
    await settle()
    away = asyncio.ensure_future(board.route_away(["one"]))
    await settle()
    gateway.acknowledge()
    await away
    again = Gateway(board, known=0)
    await settle()
    away = asyncio.ensure_future(board.route_away(["one"]))
    await asyncio.sleep(1)
    assert not away.done(), "what it had loaded from its disk may be older"
    again.acknowledge()
    await away
    await gateway.leave()
    await again.leave()


async def test_gateways_of_an_earlier_process_are_waited_for_after_a_start() -> None:
    board = RouteBoard()
    board.put(route("a", "one"))
    board.open()
    loop = asyncio.get_running_loop()
    started = loop.time()
    await board.route_away(["one"])
    assert loop.time() - started == 5


async def test_a_gateway_that_leaves_leaves_nothing_behind() -> None:
    board = opened()
    gateway = Gateway(board)
    await settle()
    await gateway.leave()
    await asyncio.sleep(10)
    assert not board._wakers
    assert not board._gateways


async def test_applied_waits_for_every_gateway_to_know_what_is_on_the_board() -> None:
    board = opened()
    gateway = Gateway(board)
    await settle()
    board.put(route("a", "one"))
    known = asyncio.ensure_future(board.applied())
    await settle()
    assert not known.done()
    gateway.acknowledge()
    await settle()
    assert known.done()
    await gateway.leave()
