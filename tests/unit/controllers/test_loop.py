"""The reconcile loop, in virtual time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.fakes.clock import settle

from ignite.controllers.loop import ReconcileLoop
from ignite.domain.errors import TemporaryError


@asynccontextmanager
async def running(
    reconcile: Callable[[str], Awaitable[None]], concurrency: int = 4
) -> AsyncIterator[ReconcileLoop[str]]:
    loop = ReconcileLoop("test", reconcile, concurrency=concurrency)
    task = asyncio.ensure_future(loop.run())
    try:
        yield loop
        assert not task.done(), "the loop has ended"
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_many_hints_before_the_work_are_one_round() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> None:
        done.append(key)

    async with running(reconcile) as loop:
        for _ in range(10):
            loop.hint("a")
        await settle()
        assert done == ["a"]


async def test_a_hint_during_the_work_leads_to_one_more_round() -> None:
    rounds = 0
    gate = asyncio.Event()

    async def reconcile(key: str) -> None:
        nonlocal rounds
        rounds += 1
        await gate.wait()

    async with running(reconcile) as loop:
        loop.hint("a")
        await settle()
        for _ in range(5):
            loop.hint("a")
        await settle()
        assert rounds == 1
        gate.set()
        await settle()
        assert rounds == 2


async def test_one_key_at_a_time_and_many_keys_at_once() -> None:
    working: dict[str, int] = {}
    most = 0

    async def reconcile(key: str) -> None:
        nonlocal most
        assert key not in working, "the same key twice at once"
        working[key] = 1
        most = max(most, len(working))
        await asyncio.sleep(1)
        del working[key]

    async with running(reconcile, concurrency=3) as loop:
        for number in range(9):
            loop.hint(f"key-{number}")
        for _ in range(20):
            await asyncio.sleep(0.25)
            loop.hint("key-0")
        assert most == 3


async def test_a_slow_key_does_not_hold_back_the_others() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> None:
        if key == "slow":
            await asyncio.Event().wait()
        done.append(key)

    async with running(reconcile, concurrency=2) as loop:
        loop.hint("slow")
        for number in range(5):
            loop.hint(f"key-{number}")
        await settle()
        assert len(done) == 5


@pytest.mark.parametrize("failure", [TemporaryError("away"), ValueError("a bug")])
async def test_a_failure_is_tried_again_ever_more_slowly(failure: Exception) -> None:
    at: list[float] = []

    async def reconcile(key: str) -> None:
        at.append(asyncio.get_running_loop().time())
        raise failure

    async with running(reconcile) as loop:
        loop.hint("a")
        await asyncio.sleep(600)
        pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
        assert pauses[0] < 0.2
        assert all(24 <= pause <= 36 for pause in pauses[-5:])


async def test_a_new_hint_does_not_wait_for_the_back_off() -> None:
    rounds = 0

    async def reconcile(key: str) -> None:
        nonlocal rounds
        rounds += 1
        raise TemporaryError("away")

    async with running(reconcile) as loop:
        loop.hint("a")
        await asyncio.sleep(300)
        before = rounds
        loop.hint("a")
        await settle()
        assert rounds == before + 1


async def test_hints_during_a_long_failure_do_not_multiply_the_tries() -> None:
    rounds = 0

    async def reconcile(key: str) -> None:
        nonlocal rounds
        rounds += 1
        raise TemporaryError("away")

    async with running(reconcile) as loop:
        for _ in range(1800):
            loop.hint("a")
            await asyncio.sleep(2)
        assert rounds < 2500


async def test_a_success_forgets_the_failures_before() -> None:
    at: list[float] = []
    failures = 8

    async def reconcile(key: str) -> None:
        nonlocal failures
        at.append(asyncio.get_running_loop().time())
        failures -= 1
        if failures in (0, -2):
            return
        raise TemporaryError("away")

    async with running(reconcile) as loop:
        loop.hint("a")
        await asyncio.sleep(300)
        at.clear()
        loop.hint("a")
        await asyncio.sleep(300)
        assert at[1] - at[0] < 0.2
