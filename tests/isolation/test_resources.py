"""Attacks on what all share: memory, processes, disk, files, CPU, logs. The neighbour is served."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.isolation.rig import PROBE, Served, ask, groups_of, long, neighbour_of, spawner
from tests.support.spawner import Client, Spawner, call, client, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client", "spawner"]
pytestmark = [needs_root, needs_bwrap]

MIB = 1024 * 1024


@pytest.fixture
async def neighbour(spawner: Spawner, client: Client) -> AsyncIterator[Served]:
    async with neighbour_of(spawner, client) as made:
        yield made


@asynccontextmanager
async def under_way(status: pb.ReplicaStatus, code: str) -> AsyncIterator[None]:
    """Run `code` inside all the while; how it ends does not matter."""
    async with asyncio.TaskGroup() as tasks:
        attack = tasks.create_task(_run(status, code))
        try:
            yield
        finally:
            attack.cancel()


async def _run(status: pb.ReplicaStatus, code: str) -> None:
    try:
        await call(status, code.encode(), within=120)
    except OSError:
        return


async def until(what: str, is_so: object) -> None:
    """Return once it is so."""
    assert callable(is_so)
    ends = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.05)


class TestProcesses:
    # Each child forks as well: what is killed is replaced faster than one could list it.
    BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""

    async def test_a_fork_bomb_stays_in_its_group_and_goes_with_it(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), pids_max=40, cpu_millicores=500)
        groups = groups_of(status)
        async with under_way(status, self.BOMB):
            await until("it bites", lambda: groups.read("pids", "pids.current") >= 40)
            await neighbour.is_served()
            assert groups.read("pids", "pids.current") <= 40
            # And others can be started meanwhile.
            await client.stop((await client.ready(spawner.app(PROBE))).replica_id)
            await client.stop(status.replica_id, grace_secs=0)
        assert groups.are_gone()

    async def test_threads_are_bounded_as_processes_are(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), pids_max=40)
        code = """
import threading
end = threading.Event()
made = []
try:
    while len(made) < 1000:
        thread = threading.Thread(target=end.wait)
        thread.start()
        made.append(thread)
except RuntimeError:
    pass
result = len(made)
end.set()
"""
        assert 10 < await ask(status, code) < 40
        await neighbour.is_served()
        await client.stop(status.replica_id)

    async def test_a_pid_namespace_full_of_the_dead_is_bounded_too(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), pids_max=40)
        code = """
import os
result = 0
try:
    while result < 1000:
        if os.fork() == 0:
            os._exit(0)
        result += 1
except OSError:
    pass
"""
        assert 10 < await ask(status, code) < 40
        await neighbour.is_served()
        await client.stop(status.replica_id)


class TestMemory:
    @pytest.mark.parametrize(
        "code",
        [
            "x = [bytearray(1 << 20) for _ in range(1000)]",
            pytest.param(
                "import mmap\nx = mmap.mmap(-1, 1 << 30)\n"
                "for i in range(0, 1 << 30, 4096): x[i] = 1",
                marks=long,
            ),
            "x = open('/dev/shm/x', 'wb')\nfor _ in range(60): x.write(bytes(1 << 20))\n"
            "y = bytearray(200 << 20)",
            "for n in range(300): open(f'/tmp/x{n}', 'wb').write(bytes(1 << 20))",
            pytest.param(
                "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, bytes(1 << 20))",
                marks=long,
            ),
            "import os\nfor _ in range(8):\n    os.fork()\nx = bytearray(50 << 20)\n"
            "while True: x[::4096] = bytes(len(x[::4096]))",
        ],
        ids=["heap", "mapping", "shm", "tmp", "memfd", "forks"],
    )
    async def test_a_memory_bomb_ends_itself_alone(
        self, spawner: Spawner, client: Client, neighbour: Served, code: str
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=96)
        groups = groups_of(status)
        async with under_way(status, code):
            await neighbour.is_served()
            if "fork" in code:
                # The kernel takes children first: what matters is that no more is used.
                used = groups.read("memory", "memory.usage_in_bytes", "memory.current")
                assert used <= 96 * MIB
                await client.stop(status.replica_id, grace_secs=0)
            else:
                ended = await client.ended(status.replica_id, within=60)
                assert ended.reason == "OutOfMemory", ended
        assert groups.are_gone()

    async def test_memory_of_the_kernel_counts_as_its_own(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=96)
        code = """
import os, socket
kept = []
try:
    for _ in range(1900):
        pipe = os.pipe()
        kept.append(pipe)
        os.set_blocking(pipe[1], False)
        os.write(pipe[1], bytes(65536))
except OSError as error:
    result = error.errno
else:
    result = len(kept)
"""
        # 119 MiB in pipes: killed, or refused by the bound on a user's pipes.
        async with under_way(status, code):
            await neighbour.is_served()
        await client.stop(status.replica_id)


class TestDisk:
    @pytest.mark.parametrize(("place", "size"), [("/tmp", 256), ("/dev/shm", 64)])
    async def test_a_full_folder_is_ones_own(
        self, spawner: Spawner, client: Client, neighbour: Served, place: str, size: int
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=512)
        code = f"""
file = open('{place}/x', 'wb', buffering=0)
while file.write(bytes(1 << 20)) == 1 << 20:
    pass
result = file.tell() >> 20
"""
        assert await ask(status, code) in (size, -errno.ENOSPC)
        other = await client.ready(spawner.app(PROBE))
        code = f"open('{place}/y', 'wb').write(bytes(1 << 20))"
        assert await ask(other, code) is None
        await neighbour.is_served()
        for each in (status, other):
            await client.stop(each.replica_id)

    @pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
    async def test_names_run_out_for_oneself_alone(
        self, spawner: Spawner, client: Client, neighbour: Served, place: str
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=64)
        code = f"""
import os
number = 0
while True:
    os.close(os.open(f'{place}/{{number}}', os.O_CREAT | os.O_WRONLY))
    number += 1
"""
        async with under_way(status, code):
            await neighbour.is_served()
            ended = await client.ended(status.replica_id, within=90)
            assert ended.reason == "OutOfMemory", ended
        other = await client.ready(spawner.app(PROBE))
        assert await ask(other, f"open('{place}/y', 'w').write('x')") is None
        await client.stop(other.replica_id)

    async def test_names_beside_its_socket_run_out_for_oneself_alone(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        # While it is loaded, as long as it can write there; all replicas share that file system.
        app = """
            import os
            number = 0
            while True:
                os.close(os.open(f'/run/ignite/{number}', os.O_CREAT | os.O_WRONLY))
                number += 1
        """
        ended = await client.ended(await client.start(spawner.app(app), memory_mb=64), within=90)
        assert ended.reason == "OutOfMemory", ended
        await neighbour.is_served()
        await client.stop((await client.ready(spawner.app(PROBE))).replica_id)


class TestFiles:
    async def test_descriptors_run_out_for_oneself_alone(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=256)
        code = """
import os, resource
resource_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
kept = []
try:
    while True:
        kept.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    found = error.errno
finally:
    for descriptor in kept:
        os.close(descriptor)
result = [found, resource_limit, len(kept)]
"""
        found, limits, kept = await ask(status, code)
        assert (found, limits) == (errno.EMFILE, [4096, 4096])
        assert kept < 4096
        assert await ask(status, "result = 1") == 1
        await neighbour.is_served()
        await client.stop(status.replica_id)

    async def test_one_that_cannot_accept_any_more_harms_itself(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app(PROBE), memory_mb=256)
        code = """
import os, time
kept = []
try:
    while True:
        kept.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    time.sleep(3)
"""
        async with under_way(status, code):
            await neighbour.is_served()
            await client.stop((await client.ready(spawner.app(PROBE))).replica_id)
        await client.stop(status.replica_id, grace_secs=0)


class TestCpu:
    @pytest.mark.parametrize("kind", ["processes", "threads", pytest.param("regex", marks=long)])
    async def test_spinning_leaves_others_their_share(
        self, spawner: Spawner, client: Client, neighbour: Served, kind: str
    ) -> None:
        status = await client.ready(spawner.app(PROBE), cpu_millicores=500)
        groups = groups_of(status)
        code = {
            "processes": "import os\nfor _ in range(4): os.fork()\nwhile True: pass",
            "threads": "import threading, hashlib\ndef spin():\n    while True:\n"
            "        hashlib.sha256(bytes(1 << 20))\n"
            "for _ in range(16): threading.Thread(target=spin, daemon=True).start()",
            "regex": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
        }[kind]
        async with under_way(status, code):
            await neighbour.is_served(50)
            await client.stop((await client.ready(spawner.app(PROBE))).replica_id)
        await client.stop(status.replica_id, grace_secs=0)
        assert groups.are_gone()


class TestLogs:
    @pytest.mark.parametrize(
        ("stream", "text"),
        [
            ("stdout", "b'x' * 99 + b'\\n'"),
            pytest.param("stderr", "bytes(range(256))", marks=long),
            ("stdout", "b'\\n' * 4096"),
        ],
        ids=["lines", "bytes", "newlines"],
    )
    async def test_a_flood_is_slowed_and_cut(
        self, spawner: Spawner, client: Client, neighbour: Served, stream: str, text: str
    ) -> None:
        status = await client.ready(spawner.app(PROBE))
        number = {"stdout": 1, "stderr": 2}[stream]
        code = f"""
import os
data = ({text}) * (65536 // len({text}))
while True:
    os.write({number}, data)
"""
        log = spawner.layout.replicas / status.replica_id
        async with under_way(status, code):
            await until("it bites", lambda: _sizes(log) > 1 * MIB)
            await neighbour.is_served(50)
            await client.stop((await client.ready(spawner.app(PROBE))).replica_id)
            await client.stop(status.replica_id, grace_secs=0)
        # Twice its half, and JSON around it.
        assert _sizes(log) <= 5 * MIB
        lines = await client.logs(status.replica_id, limit=100)
        assert lines


def _sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("log*"))
