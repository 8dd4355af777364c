"""Janitors and whoever saves, compiles, publishes and deletes, all at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.support.clocks import ManualClock
from tests.support.house import (
    ACME,
    GRACE,
    RIVAL,
    House,
    NothingWaits,
    running_house,
)

from ignite.controllers.janitor import Janitor
from ignite.domain.apps import AppConfig, AppRef
from ignite.domain.errors import IgniteError
from ignite.ports.shelves import Kept, Removed, Shelf, ShelfKind


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(database_url, tmp_path) as running:
        yield running


class Aging:
    """A shelf whose things are as old as a clock of the test says, since they were first met."""

    def __init__(self, shelf: Shelf, clock: ManualClock) -> None:
        self.kind = shelf.kind
        self._shelf = shelf
        self._clock = clock
        self._met: dict[tuple[str, tuple[int, int]], float] = {}

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        page = await self._shelf.page(after=after, limit=limit)
        now = self._clock().timestamp()
        return [
            replace(kept, modified_at=self._met.setdefault((kept.key, kept.stamp), now))
            for kept in page
        ]

    async def remove(self, kept: Kept) -> Removed:
        return await self._shelf.remove(kept)

    async def tidy(self) -> Removed:
        return await self._shelf.tidy()


@dataclass(slots=True)
class Calls:
    """Calls under way, and the time that passes: none of them takes as long as the grace."""

    clock: ManualClock
    under_way: set[object] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def do(self, call: Awaitable[object]) -> None:
        me = object()
        self.under_way.add(me)
        try:
            await call
        except IgniteError:
            pass  # another worker was first; the API would say so
        finally:
            self.under_way.discard(me)
            async with self.changed:
                self.changed.notify_all()

    async def pass_time(self) -> None:
        """Let less than the grace pass once all have ended that were there the last time."""
        before = frozenset(self.under_way)
        async with self.changed:
            await self.changed.wait_for(lambda: not (before & self.under_way))
        self.clock.forward(GRACE.total_seconds() * 0.6)


@dataclass(slots=True, kw_only=True)
class Race:
    """Workers that save, compile, publish and delete, and janitors, all at once.

    There are few sources, so that most come back to life again and again.
    """

    house: House
    chance: random.Random
    calls: Calls
    refs: Sequence[AppRef]
    janitors: Sequence[Janitor]
    removed: dict[str, int] = field(default_factory=dict)
    saves: int = 0
    is_over: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for janitor in self.janitors:
                group.create_task(self._keep_house(janitor))
            group.create_task(self._pass_time())
            group.create_task(self._check())
            async with asyncio.TaskGroup() as workers:
                for _ in range(4):
                    workers.create_task(self._work())
            self.is_over = True

    async def _work(self) -> None:
        for _ in range(60):
            await self.calls.do(self._any_call())

    def _any_call(self) -> Awaitable[object]:
        house, ref = self.house, self.chance.choice(self.refs)
        match self.chance.choices("csbpwd", (25, 35, 10, 10, 12, 8))[0]:
            case "c":
                organization = ACME if ref.organization == ACME.name else RIVAL
                return house.apps.create(organization, ref.name, AppConfig(), None)
            case "s":
                self.saves += 1
                return house.save(ref, f"x = {self.chance.randrange(4)}\n".encode())
            case "b":
                return house.drafts.compile(ref)
            case "p":
                return house.drafts.publish(ref)
            case "w":
                return self._build()
            case _:
                return house.apps.delete(ref)

    async def _build(self) -> None:
        if await self.house.rows("SELECT 1 FROM builds WHERE state = 'pending'"):
            with contextlib.suppress(NothingWaits):
                await self.house.build()

    async def _keep_house(self, janitor: Janitor) -> None:
        while not self.is_over:
            for kind, found in (await janitor.round()).items():
                self.removed[kind] = self.removed.get(kind, 0) + found.count
            await asyncio.sleep(0)

    async def _pass_time(self) -> None:
        while not self.is_over:
            await self.calls.pass_time()
            await asyncio.sleep(0)

    async def _check(self) -> None:
        while not self.is_over:
            # Rows may go between the look at them and the look at the files.
            if missing := await self.house.missing():
                assert set(missing).isdisjoint(await self.house.missing())
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_that_rows_refer_to_is_ever_missing(house: House, seed: int) -> None:
    shelves = [Aging(shelf, house.clock) for shelf in house.shelves]
    race = Race(
        house=house,
        chance=random.Random(seed),
        calls=Calls(house.clock),
        refs=[
            AppRef(organization=organization.name, name=name)
            for organization in (ACME, RIVAL)
            for name in ("one", "two", "three")
        ],
        janitors=[house.another_janitor(shelves) for _ in range(2)],
    )
    await race.run()
    assert await house.missing() == []
    assert race.saves > 20
    assert race.removed[ShelfKind.BLOB] > 0
    # In the end all goes that is left.
    for ref in race.refs:
        await race.calls.do(house.apps.delete(ref))
    for _ in range(4):
        house.clock.forward(GRACE.total_seconds() * 2)
        await race.janitors[0].round()
    assert house.files() == []
