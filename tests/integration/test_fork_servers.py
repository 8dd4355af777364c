"""Fork servers of this process: replaced when they are old, and gone when nobody needs them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.spawner import needs_bwrap, needs_root

from ignite.domain.versions import Language, Runtime
from ignite.layout import Layout
from ignite.sandbox.forked import Forked, ForkFailed
from ignite.sandbox.forkserver import Seat
from ignite.sandbox.interpreters import Interpreter
from ignite.sandbox.launcher import Launcher
from ignite.sandbox.network.egress import Egress
from ignite.settings import Settings
from ignite.spawner.forks import ForkServers
from ignite.spawner.host import Host, prepare_host

FIRST_UID = 290_000

pytestmark = [
    needs_root,
    needs_bwrap,
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    layout = Layout(data=tmp_path_factory.mktemp("host"))
    made = prepare_host(Settings.load({}), layout, Egress(replicas="none", builds="host"))
    yield made
    for group in made.groups.find():
        assert group.remove(), group.name
    made.groups.close()


@pytest.fixture
def python(host: Host) -> Interpreter:
    return host.interpreter(Runtime(language=Language.PYTHON, version="", target=""))


@asynccontextmanager
async def servers(host: Host, **options: int) -> AsyncIterator[ForkServers]:
    launcher = Launcher(host.tools)
    made = ForkServers(settings=Settings.load({}).runtime, host=host, launcher=launcher, **options)
    try:
        async with asyncio.TaskGroup() as tasks:
            await made.open(tasks)
            try:
                yield made
            finally:
                await made.close()
    finally:
        launcher.close()


async def fork(made: ForkServers, python: Interpreter, uid: int = FIRST_UID) -> Forked:
    seat = Seat(uid=uid, group=None, tmp_bytes=1 << 20, has_network=False)
    forked = await made.fork(python, seat)
    await forked.prepared(10)
    return forked


async def end(forked: Forked) -> None:
    forked.kill()
    await forked.wait()
    forked.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


def parent_of(forked: Forked) -> int:
    status = Path(f"/proc/{forked.identity.pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_an_old_one_is_replaced_and_stays_until_its_last_child_has_ended(
    host: Host, python: Interpreter
) -> None:
    async with servers(host, most_forks=2) as made:
        old = [await fork(made, python) for _ in range(2)]
        new = await fork(made, python)
        parent = parent_of(old[0])
        assert parent_of(old[1]) == parent
        assert parent_of(new) != parent
        await end(old[0])
        assert is_alive(parent)
        await end(old[1])
        await until(lambda: not is_alive(parent))
        assert is_alive(parent_of(new))
        await end(new)


async def test_closing_ends_everything(host: Host, python: Interpreter) -> None:
    async with servers(host) as made:
        forked = await fork(made, python)
        parent = parent_of(forked)
    await until(lambda: not is_alive(parent))
    await until(lambda: not is_alive(forked.identity.pid))
    forked.close()
    assert host.groups.find() == []


async def test_each_child_is_reaped(host: Host, python: Interpreter) -> None:
    async with servers(host) as made:
        for _ in range(5):
            forked = await fork(made, python)
            parent = parent_of(forked)
            await end(forked)
        children = Path(f"/proc/{parent}/task/{parent}/children")
        await until(lambda: not children.read_text().strip())


async def test_a_version_that_cannot_be_is_left_alone_for_a_while(
    host: Host, python: Interpreter
) -> None:
    broken = Interpreter(
        path=python.prefix / "bin/no-such-python",
        prefix=python.prefix,
        version="3.99.0",
        needs_library_path=False,
    )
    async with servers(host) as made:
        assert made.can_fork(broken)
        with pytest.raises(ForkFailed):
            await fork(made, broken)
        assert not made.can_fork(broken)
        assert made.can_fork(python)


async def test_one_whose_control_is_dropped_ends(host: Host, python: Interpreter) -> None:
    async with servers(host) as made:
        forked = await fork(made, python)
        forked.close()
        await until(lambda: not is_alive(forked.identity.pid))
