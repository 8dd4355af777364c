"""Attacks on the fork server by what it forked, and the proof that its sandbox is bubblewrap's."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.neighbours import wait_until
from tests.support.spawner import (
    WAYS,
    Client,
    Spawner,
    call,
    client,
    needs_bwrap,
    needs_root,
)

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap]

PROBE = """
    def handler(body, context):
        names = {}
        try:
            exec(body.decode(), names)
        except OSError as error:
            return {"error": type(error).__name__, "errno": error.errno}
        return {"result": names.get("result")}
"""
SECRET = "7f3a-very-secret-of-one-app"


@pytest.fixture(scope="module", params=["pool", "fork"])
def spawner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spawner]:
    made = Spawner(tmp_path_factory.mktemp("spawner") / "data", env=WAYS[request.param])
    made.start()
    yield made
    made.close()


@pytest.fixture
async def replica(spawner: Spawner, client: Client) -> AsyncIterator[pb.ReplicaStatus]:
    status = await client.ready(spawner.app(PROBE))
    yield status
    await client.stop(status.replica_id)


async def ask(status: pb.ReplicaStatus, code: str) -> Any:
    """Run `code` inside; return its result, or the OSError's number as a negative."""
    answer = await call(status, code.encode())
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    return -found["errno"] if "errno" in found else found["result"]


def fork_server(spawner: Spawner) -> int:
    """Return the pid of the one fork server there is."""
    pids = spawner.pids(".fork-server-")
    parents = {}
    for pid in pids:
        try:
            if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()[:40]:
                status = Path(f"/proc/{pid}/status").read_text()
                parents[pid] = int(status.partition("PPid:")[2].split()[0])
        except OSError:
            continue
    # What it has just forked is in its group for a moment.
    found = [pid for pid, parent in parents.items() if parent not in parents]
    assert len(found) == 1, found
    return found[0]


def memory_of(pid: int) -> bytes:
    """Return all of a process' writable memory."""
    made = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match:
                first, last = (int(text, 16) for text in match.groups())
                try:
                    memory.seek(first)
                    made += memory.read(last - first)
                except (OSError, OverflowError):
                    continue
    return bytes(made)


class TestParent:
    async def test_it_never_holds_what_is_an_apps(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(PROBE), env={"TOKEN": SECRET})
        assert await ask(status, "import os; result = os.environ['TOKEN']") == SECRET
        command = await command_of(status)
        assert SECRET.encode() in memory_of(command)
        assert SECRET.encode() not in memory_of(fork_server(spawner))
        assert SECRET.encode() not in memory_of(status.pid)
        await client.stop(status.replica_id)

    async def test_another_app_finds_nothing_of_the_first(
        self, spawner: Spawner, client: Client
    ) -> None:
        first = await client.ready(spawner.app(PROBE), env={"TOKEN": SECRET})
        second = await client.ready(spawner.app(PROBE))
        assert SECRET.encode() not in memory_of(await command_of(second))
        for status in (first, second):
            await client.stop(status.replica_id)

    def test_it_has_no_descriptor_but_its_own(self, spawner: Spawner) -> None:
        found: list[str] = []

        def has_its_own_alone() -> bool:
            found[:] = _open_files(fork_server(spawner))
            return len(found) == 7

        # While it makes a sandbox for the pool it has that one's as well.
        wait_until("it has seven descriptors", has_its_own_alone)
        assert not [name for name in found if name.startswith("/") and name != "/dev/null"]

    def test_it_has_one_thread_and_an_empty_environment(self, spawner: Spawner) -> None:
        pid = fork_server(spawner)
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        names = {
            entry.split(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        }
        assert names <= {b"HOME", b"PATH", b"LANG", b"TMPDIR", b"PWD", b""}

    async def test_what_an_app_changes_in_the_interpreter_stays_its_own(
        self, spawner: Spawner, client: Client
    ) -> None:
        hook = """
            import builtins, json, sys
            class Hook:
                @staticmethod
                def find_spec(name, path=None, target=None):
                    return None
            builtins.evil = True
            json.dumps = None
            sys.meta_path.insert(0, Hook)
            sys.modules["string"] = None
            def handler(body, context):
                return "hooked"
        """
        evil = await client.ready(spawner.app(hook))
        assert b"hooked" in await call(evil)
        good = await client.ready(spawner.app(PROBE))
        code = """
import builtins, string, sys
result = [hasattr(builtins, 'evil'), [str(finder) for finder in sys.meta_path]]
"""
        is_evil, finders = await ask(good, code)
        assert not is_evil
        assert not [name for name in finders if "Hook" in name]
        for status in (evil, good):
            await client.stop(status.replica_id)

    async def test_modules_of_an_app_do_not_hide_its_own(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(PROBE)
        for name in ("json.py", "ssl.py", "ignite_shim.py", "sitecustomize.py"):
            (Path(app) / name).write_text("raise SystemExit('loaded')\n")
        status = await client.ready(app)
        assert await ask(status, "result = 1") == 1
        await client.stop(status.replica_id)

    async def test_an_app_finds_its_own_module_by_the_name_of_one_that_is_loaded(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(PROBE)
        (Path(app) / "decimal.py").write_text("whose = 'mine'\n")
        status = await client.ready(app)
        assert await ask(status, "import decimal; result = decimal.whose") == "mine"
        other = await client.ready(spawner.app(PROBE))
        code = "import decimal; result = [hasattr(decimal, 'whose'), str(decimal.Decimal('1.0'))]"
        assert await ask(other, code) == [False, "1.0"]
        for started in (status, other):
            await client.stop(started.replica_id)


class TestFirstProcess:
    async def test_it_has_no_power_left(self, replica: pb.ReplicaStatus) -> None:
        text = Path(f"/proc/{replica.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        open_files = [os.readlink(path) for path in Path(f"/proc/{replica.pid}/fd").iterdir()]
        assert [name.split(":")[0] for name in open_files] == ["pipe"]

    @pytest.mark.parametrize(
        "name",
        ["mem", "environ", "maps", "auxv", "stack", "root/etc", "cwd", "fd", "ns/mnt", "exe"],
    )
    async def test_it_cannot_be_looked_into(self, replica: pb.ReplicaStatus, name: str) -> None:
        code = f"""
import os
path = '/proc/1/{name}'
if {name!r} in ('cwd', 'ns/mnt'):
    os.readlink(path)
elif os.path.isdir(path) or {name!r} in ('fd', 'root/etc'):
    os.listdir(path)
else:
    open(path, 'rb').read(1)
result = 'open'
"""
        assert await ask(replica, code) in (-1, -13)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
    async def test_it_cannot_be_signalled(
        self, replica: pb.ReplicaStatus, number: signal.Signals
    ) -> None:
        assert await ask(replica, f"import os; os.kill(1, {int(number)})") == -1
        assert await ask(replica, "result = 1") == 1

    async def test_nothing_outside_has_a_pid(
        self, spawner: Spawner, replica: pb.ReplicaStatus
    ) -> None:
        for pid in (fork_server(spawner), replica.pid, os.getpid()):
            assert await ask(replica, f"import os; os.kill({pid}, 0)") == -3


class TestSandbox:
    async def test_it_is_the_same_as_bubblewraps(self, spawner: Spawner, tmp_path: Path) -> None:
        code = """
import os, resource, signal, socket, sys
def mounts():
    found = []
    for line in open('/proc/self/mountinfo'):
        before, _, after = line.partition(' - ')
        words = before.split()
        options = set(words[5].split(',')) - {'relatime', 'noatime'}
        found.append([words[4], after.split()[0], sorted(options)])
    return sorted(found)
visible = [m for m in mounts() if m[0] != '/etc/passwd']
mask = os.umask(0)
os.umask(mask)
status = dict(l.split(':\\t', 1) for l in open('/proc/self/status') if ':\\t' in l)
result = {
    'mounts': visible,
    'umask': mask,
    'limits': [resource.getrlimit(n) for n in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)],
    'names': sorted(set(os.environ) - {'PWD', 'LC_CTYPE'}),
    'path': sys.path,
    'argv': sys.argv,
    'flags': str(sys.flags),
    'host': socket.gethostname(),
    'cwd': os.getcwd(),
    'folders': {name: sorted(os.listdir(name)) for name in ('/', '/dev', '/etc', '/run', '/tmp')},
    'pids': [os.getpid(), os.getppid()],
    'session': os.getsid(0) == os.getpid(),
    'tree': oct(os.stat('/').st_mode),
    'status': {name: status[name].strip() for name in
               ('Groups', 'CapBnd', 'NoNewPrivs', 'SigBlk', 'SigIgn', 'SigCgt')},
    'cgroup': open('/proc/self/cgroup').read().splitlines()[-1].split(':')[-1],
    'user': [os.getresuid()[0] == os.getuid(), os.path.expanduser('~')],
    'self': os.stat('/proc/self/fd').st_uid == os.getuid(),
}
"""
        other = Spawner(tmp_path / "data", env=WAYS["bwrap"])
        other.start()
        try:
            async with other.client() as by_bwrap, spawner.client() as by_fork:
                wanted = await ask(await by_bwrap.ready(other.app(PROBE)), code)
                status = await by_fork.ready(spawner.app(PROBE))
                found = await ask(status, code)
                await by_fork.stop(status.replica_id)
        finally:
            other.close()
        # The kernel's own files are covered here, and not where bubblewrap is root.
        covered = [mount for mount in found["mounts"] if mount[0].startswith("/proc/")]
        assert {place for place, *_ in covered} >= {"/proc/sys", "/proc/irq", "/proc/bus"}
        assert all("ro" in options for *_, options in covered)
        for made in (found, wanted):
            made["mounts"] = [m for m in made["mounts"] if not m[0].startswith("/proc/")]
        for name in wanted:
            assert found[name] == wanted[name], name

    async def test_terminals_are_its_own(self, spawner: Spawner, client: Client) -> None:
        first = await client.ready(spawner.app(PROBE))
        second = await client.ready(spawner.app(PROBE))
        code = "import os\nos.kept = os.openpty()\nresult = os.listdir('/dev/pts')"
        assert "0" in await ask(first, code)
        assert await ask(second, "import os; result = os.listdir('/dev/pts')") == ["ptmx"]
        for status in (first, second):
            await client.stop(status.replica_id)

    async def test_the_time_zone_is_the_one_of_its_environment(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(PROBE)
        # Written out, so that no table of zones is needed.
        status = await client.ready(app, env={"TZ": "<+05>-5"})
        code = "import time; result = [time.localtime(0).tm_hour, time.tzname[0]]"
        assert await ask(status, code) == [5, "+05"]
        await client.stop(status.replica_id)

    async def test_chance_is_its_own(self, spawner: Spawner, client: Client) -> None:
        code = """
import random, ssl, tempfile, uuid
result = [random.random(), ssl.RAND_bytes(8).hex(), uuid.uuid4().hex,
          next(tempfile._get_candidate_names())]
"""
        app = spawner.app(PROBE)
        made = [await client.ready(app) for _ in range(3)]
        answers = [await ask(status, code) for status in made]
        for each in zip(*answers, strict=True):
            assert len(set(each)) == 3
        for status in made:
            await client.stop(status.replica_id)


class TestSurvival:
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import os\nos.abort()\n", "Crashed"),
            ("x = [bytearray(1 << 20) for _ in range(400)]\n", "OutOfMemory"),
            ("import ctypes\nctypes.string_at(0)\n", "Crashed"),
            ("import os\nwhile True:\n    os.fork()\n", "ImportFailed"),
            ("import os\nos.closerange(0, 4096)\nos._exit(3)\n", "ImportFailed"),
        ],
    )
    async def test_the_fork_server_outlives_what_a_child_does(
        self, spawner: Spawner, client: Client, code: str, reason: str
    ) -> None:
        pid = fork_server(spawner)
        # Room for all 32 of the fork bomb: it is to end by the bound on processes.
        started = await client.start(spawner.app(code), memory_mb=128, pids_max=32)
        ended = await client.ended(started)
        assert ended.reason == reason
        status = await client.ready(spawner.app(PROBE))
        assert fork_server(spawner) == pid
        await client.stop(status.replica_id)

    async def test_its_death_takes_its_children_and_another_takes_its_place(
        self, spawner: Spawner, client: Client
    ) -> None:
        status = await client.ready(spawner.app(PROBE))
        pid = fork_server(spawner)
        os.kill(pid, signal.SIGKILL)
        ended = await client.ended(status.replica_id)
        assert ended.exit_code == -signal.SIGKILL
        status = await client.ready(spawner.app(PROBE))
        assert await ask(status, "result = 1") == 1
        await client.stop(status.replica_id)

    async def test_one_that_does_not_answer_costs_time_alone(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(PROBE)
        # Uses up what waits.
        made = [await client.ready(app) for _ in range(4)]
        pid = fork_server(spawner)
        os.kill(pid, signal.SIGSTOP)
        try:
            made += [await client.ready(app) for _ in range(4)]
        finally:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.TaskGroup() as tasks:
            for status in made:
                tasks.create_task(client.stop(status.replica_id))


def _open_files(pid: int) -> list[str]:
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(path))
    return names


async def command_of(status: pb.ReplicaStatus) -> int:
    """Return the pid of the app's process."""
    children = Path(f"/proc/{status.pid}/task/{status.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])
