"""When Envoy is made to forget tokens: at once, and again when it must have newer keys."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ignite.gateway.trust import KeyWatch, generation_of


class Keys:
    def __init__(self, digest: str) -> None:
        self.digest = digest
        self._calls: list[Callable[[], None]] = []

    def on_change(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def change(self, digest: str) -> None:
        self.digest = digest
        for call in self._calls:
            call()


class Told:
    def __init__(self) -> None:
        self.names: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, name: str) -> None:
        self.names.append(name)
        self._more.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.names) < count:
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def watched(*keys: Keys, settle_secs: float = 0.01) -> AsyncIterator[Told]:
    told, up = Told(), asyncio.Event()
    watch = KeyWatch(keys, told, settle_secs=settle_secs)
    task = asyncio.ensure_future(watch.run(up.set))
    await up.wait()
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_change_is_told_at_once_and_again_when_it_has_settled() -> None:
    keys = Keys("one")
    before = generation_of([keys])
    async with watched(keys) as told:
        keys.change("two")
        await told.wait(2)
    assert len({before, *told.names}) == 3
    assert told.names[1] == generation_of([keys])


async def test_a_second_change_does_not_wait_for_the_first_to_settle() -> None:
    ours, theirs = Keys("one"), Keys("other")
    async with watched(ours, theirs, settle_secs=3600) as told:
        ours.change("two")
        await told.wait(1)
        theirs.change("another")
        await told.wait(2)
    assert told.names[0] != told.names[1]


async def test_what_changed_before_the_start_is_told() -> None:
    keys, told, up = Keys("one"), Told(), asyncio.Event()
    watch = KeyWatch([keys], told, settle_secs=3600)
    keys.digest = "two"
    task = asyncio.ensure_future(watch.run(up.set))
    await told.wait(1)
    task.cancel()
    await asyncio.wait([task])


async def test_back_to_a_former_set_is_a_change_too() -> None:
    keys = Keys("one")
    async with watched(keys) as told:
        keys.change("two")
        await told.wait(2)
        keys.change("one")
        await told.wait(4)
    assert len(set(told.names)) == 4


def test_without_key_sets_there_is_no_name() -> None:
    assert generation_of([]) == ""
    assert generation_of([Keys("")]) != ""
