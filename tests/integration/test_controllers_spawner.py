"""The replica backend over a real spawner: failures are told, a spawner may come and go."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes.replicas import FakeDrain
from tests.support.deployments import until
from tests.support.spawner import Spawner, needs_bwrap, needs_root
from tests.support.workloads import spec_of

from ignite.backends.process import ProcessDriver
from ignite.backends.replicas import ReplicaBackend
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.workloads import WorkloadSpec
from ignite.settings import RuntimeSettings

pytestmark = [needs_root, needs_bwrap]


@asynccontextmanager
async def backend_of(spawner: Spawner) -> AsyncIterator[ReplicaBackend]:
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    address = f"unix:{spawner.layout.spawner_socket}"
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        backend = ReplicaBackend(
            ProcessDriver(channel, spawner.layout, RuntimeSettings()),
            FakeDrain(),
            now=lambda: datetime.now(UTC),
            stop_grace_secs=1,
        )
        ready = asyncio.Event()
        task = asyncio.ensure_future(backend.run(ready.set))
        try:
            async with asyncio.timeout(20):
                await ready.wait()
            yield backend
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Spawner]:
    made = Spawner(tmp_path / "data")
    made.start()
    yield made
    made.close()


def deploy(spawner: Spawner, code: str, **changes: Any) -> WorkloadSpec:
    """Write an artifact; return the spec that runs it once."""
    spec = spec_of()
    folder = spawner.layout.artifact(spec.ref.app.organization, spec.ref.artifact)
    folder.parent.mkdir(mode=0o755)
    folder.mkdir(mode=0o755)
    (folder / "handler.py").write_text(code)
    return replace(spec, **changes)


async def until_ready(backend: ReplicaBackend, key: str, number: int = 1) -> set[str]:
    await until(lambda: len(_ready(backend, key)) == number, within=30)
    return _ready(backend, key)


def _ready(backend: ReplicaBackend, key: str) -> set[str]:
    return {replica.id for replica in backend.status(key).ready}


async def reason(backend: ReplicaBackend, key: str) -> tuple[str, str]:
    await until(lambda: backend.status(key).reason, within=30)
    return backend.status(key).reason, backend.status(key).message


async def test_code_that_cannot_be_imported_is_told_with_its_last_words(spawner: Spawner) -> None:
    spec = deploy(spawner, "import no_such_module\n")
    async with backend_of(spawner) as backend:
        await backend.apply(spec)
        word, message = await reason(backend, spec.ref.key)
        assert word
        assert "no_such_module" in message
        await backend.remove(spec.ref.key)


async def test_a_runtime_that_is_not_there_is_refused_at_once(spawner: Spawner) -> None:
    spec = deploy(
        spawner,
        "def handler(body, context):\n    return 1\n",
        runtime=Runtime(language=Language.PYTHON, version="3.99"),
    )
    async with backend_of(spawner) as backend:
        await backend.apply(spec)
        started = time.monotonic()
        word, message = await reason(backend, spec.ref.key)
        assert word == "NoToolchain"
        assert time.monotonic() - started < 5
        assert "3.99" in message


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_spawner_that_is_restarted_gets_its_replicas_again(
    spawner: Spawner, how: signal.Signals
) -> None:
    spec = deploy(spawner, "def handler(body, context):\n    return 1\n", replicas=2)
    async with backend_of(spawner) as backend:
        await backend.apply(spec)
        before = await until_ready(backend, spec.ref.key, 2)
        await asyncio.to_thread(spawner.end, how)
        await asyncio.sleep(1)
        await asyncio.to_thread(spawner.start)
        await until(lambda: not _ready(backend, spec.ref.key) & before, within=30)
        await until_ready(backend, spec.ref.key, 2)
        assert backend.status(spec.ref.key).reason == ""
        await backend.remove(spec.ref.key)
