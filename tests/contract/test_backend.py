"""What every runtime backend does, whatever it runs Workloads with."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import pytest
from tests.fakes.backend import FakeBackend
from tests.fakes.replicas import FakeDrain, FakeDriver
from tests.support.spawner import Spawner, needs_bwrap, needs_root, spawner
from tests.support.workloads import spec_of, with_env

from ignite.backends.process import ProcessDriver
from ignite.backends.replicas import ReplicaBackend
from ignite.ports.backend import RuntimeBackend
from ignite.ports.replicas import ReplicaDriver
from ignite.settings import RuntimeSettings

__all__ = ["spawner"]

KEY = spec_of().ref.key
WITHIN_SECS = 20


@dataclass(slots=True, kw_only=True)
class Kind:
    """A backend, and how to end and begin its process while what it started lives on."""

    backend: RuntimeBackend
    restart: Callable[[], Awaitable[RuntimeBackend]]

    async def until_ready(self, number: int, key: str = KEY) -> set[str]:
        """Wait until exactly so many replicas are ready and none is left over; return their ids."""
        async with asyncio.timeout(WITHIN_SECS):
            while True:
                status = self.backend.status(key)
                if len(status.ready) == len(status.replicas) == number:
                    return {replica.id for replica in status.ready}
                await asyncio.sleep(0.01)


@asynccontextmanager
async def fake() -> AsyncIterator[Kind]:
    backend = FakeBackend()

    async def restart() -> RuntimeBackend:
        return backend

    yield Kind(backend=backend, restart=restart)


@asynccontextmanager
async def replicas() -> AsyncIterator[Kind]:
    driver = FakeDriver()
    lives: list[AsyncExitStack] = []

    async def start() -> RuntimeBackend:
        for life in lives:
            await life.aclose()
        lives[:] = [AsyncExitStack()]
        return await lives[0].enter_async_context(running(driver))

    yield Kind(backend=await start(), restart=start)
    for life in lives:
        await life.aclose()


@asynccontextmanager
async def process(spawner: Spawner) -> AsyncIterator[Kind]:
    """The real thing: the spawner's sandboxed processes, each a real app."""
    folder = spawner.layout.artifact("acme", spec_of().ref.artifact)
    if not folder.exists():
        folder.parent.mkdir(mode=0o755, exist_ok=True)
        folder.mkdir(mode=0o755)
        (folder / "handler.py").write_text("def handler(body, context):\n    return 'hello'\n")
    lives: list[AsyncExitStack] = []

    async def start() -> RuntimeBackend:
        for life in lives:
            await life.aclose()
        lives[:] = [AsyncExitStack()]
        channel = await lives[0].enter_async_context(
            grpc.aio.insecure_channel(
                f"unix:{spawner.layout.spawner_socket}",
                options=[("grpc.use_local_subchannel_pool", 1)],
            )
        )
        driver = ProcessDriver(channel, spawner.layout, RuntimeSettings())
        return await lives[0].enter_async_context(running(driver))

    kind = Kind(backend=await start(), restart=start)
    yield kind
    for key in await kind.backend.observe():
        await kind.backend.remove(key)
        await kind.until_ready(0, key)
    for life in lives:
        await life.aclose()


@asynccontextmanager
async def running(driver: ReplicaDriver) -> AsyncIterator[RuntimeBackend]:
    """Run the real backend over a driver."""
    backend = ReplicaBackend(driver, FakeDrain(), now=lambda: datetime.now(UTC), stop_grace_secs=1)
    ready = asyncio.Event()
    task = asyncio.ensure_future(backend.run(ready.set))
    try:
        async with asyncio.timeout(WITHIN_SECS):
            await ready.wait()
        yield backend
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(
    params=["fake", "replicas", pytest.param("process", marks=[needs_root, needs_bwrap])]
)
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    match request.param:
        case "fake":
            made = fake()
        case "replicas":
            made = replicas()
        case _:
            made = process(request.getfixturevalue("spawner"))
    async with made as kind:
        yield kind


async def test_an_unknown_workload_has_no_replicas(kind: Kind) -> None:
    assert kind.backend.status(KEY).replicas == ()
    assert await kind.backend.observe() == {}


async def test_a_workload_gets_its_replicas_and_loses_them(kind: Kind) -> None:
    for number in (2, 3, 1, 0):
        await kind.backend.apply(spec_of(number))
        await kind.until_ready(number)


async def test_ready_replicas_have_endpoints_of_their_own(kind: Kind) -> None:
    await kind.backend.apply(spec_of(2))
    await kind.until_ready(2)
    endpoints = {replica.endpoint for replica in kind.backend.status(KEY).ready}
    assert len(endpoints) == 2
    assert all(one.unix_path or (one.host and one.port) for one in endpoints)


async def test_an_equal_spec_changes_nothing(kind: Kind) -> None:
    await kind.backend.apply(spec_of(1))
    before = await kind.until_ready(1)
    await kind.backend.apply(spec_of(1))
    await asyncio.sleep(0.1)
    assert await kind.until_ready(1) == before


async def test_scaling_out_keeps_what_runs(kind: Kind) -> None:
    await kind.backend.apply(spec_of(1))
    before = await kind.until_ready(1)
    await kind.backend.apply(spec_of(2))
    assert before < await kind.until_ready(2)


async def test_another_config_replaces_what_runs(kind: Kind) -> None:
    await kind.backend.apply(spec_of(1))
    before = await kind.until_ready(1)
    await kind.backend.apply(with_env(spec_of(1), GREETING="goodbye"))
    async with asyncio.timeout(WITHIN_SECS):
        changes = kind.backend.changes()
        while await kind.until_ready(1) == before:
            await anext(changes)


async def test_a_removed_workload_is_gone_and_removing_it_again_is_success(kind: Kind) -> None:
    await kind.backend.apply(spec_of(1))
    await kind.until_ready(1)
    await kind.backend.remove(KEY)
    await kind.backend.remove(KEY)
    await kind.until_ready(0)
    await kind.backend.remove("acme/other@1#a.7")


async def test_workloads_do_not_disturb_each_other(kind: Kind) -> None:
    other = spec_of(2, app="other")
    await kind.backend.apply(spec_of(1))
    await kind.backend.apply(other)
    await kind.until_ready(1)
    kept = await kind.until_ready(2, other.ref.key)
    await kind.backend.remove(KEY)
    await kind.until_ready(0)
    assert await kind.until_ready(2, other.ref.key) == kept


async def test_changes_are_hinted_at(kind: Kind) -> None:
    changes = kind.backend.changes()
    await kind.backend.apply(spec_of(1))
    async with asyncio.timeout(WITHIN_SECS):
        assert await anext(changes) == KEY


async def test_what_an_earlier_process_started_is_found_and_kept(kind: Kind) -> None:
    await kind.backend.apply(spec_of(2))
    before = await kind.until_ready(2)
    kind.backend = await kind.restart()
    found = await kind.backend.observe()
    assert {replica.id for replica in found[KEY].ready} == before
    await asyncio.sleep(0.1)
    await kind.backend.apply(spec_of(2))
    await asyncio.sleep(0.1)
    assert await kind.until_ready(2) == before


async def test_what_an_earlier_process_started_can_be_removed(kind: Kind) -> None:
    await kind.backend.apply(spec_of(1))
    await kind.until_ready(1)
    kind.backend = await kind.restart()
    assert KEY in await kind.backend.observe()
    await kind.backend.remove(KEY)
    await kind.until_ready(0)
