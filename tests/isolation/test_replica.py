"""What a tenant's code can see and do inside a replica: attacks by the code itself."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.spawner import (
    Client,
    Spawner,
    call,
    client,
    needs_bwrap,
    needs_root,
)
from tests.support.spawner import spawner_of_each_way as spawner

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client", "spawner"]
pytestmark = [needs_root, needs_bwrap]

# Runs the posted Python and answers its `result`, or the error's class and number.
PROBE = """
    def handler(body, context):
        names = {}
        try:
            exec(body.decode(), names)
        except OSError as error:
            return {"error": type(error).__name__, "errno": error.errno}
        return {"result": names.get("result")}
"""


async def ask(status: pb.ReplicaStatus, code: str) -> Any:
    """Run `code` inside; return its result, or the OSError's number as a negative."""
    answer = await call(status, code.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    found = json.loads(body)
    return -found["errno"] if "error" in found else found["result"]


@pytest.fixture
async def replica(spawner: Spawner, client: Client) -> AsyncIterator[pb.ReplicaStatus]:
    status = await client.ready(spawner.app(PROBE))
    yield status
    await client.stop(status.replica_id)


class TestPrivileges:
    async def test_there_are_none(self, replica: pb.ReplicaStatus) -> None:
        status = await ask(replica, "result = open('/proc/self/status').read()")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert fields["Groups"].strip() == ""

    async def test_uids_are_own_and_differ(self, spawner: Spawner, client: Client) -> None:
        app = spawner.app(PROBE)
        uids = set()
        for _ in range(3):
            status = await client.ready(app)
            uid, gid = await ask(status, "import os; result = [os.getuid(), os.getgid()]")
            assert uid == gid >= 200_000
            uids.add(uid)
        assert len(uids) == 3

    async def test_root_cannot_be_taken_back(self, replica: pb.ReplicaStatus) -> None:
        assert await ask(replica, "import os; os.setuid(0)") == -1
        assert await ask(replica, "import os; os.setgroups([0])") == -1

    async def test_nothing_is_set_uid(self, replica: pb.ReplicaStatus) -> None:
        mounts = await ask(replica, "result = open('/proc/self/mounts').read()")
        for line in mounts.splitlines():
            assert "nosuid" in line.split()[3].split(","), line


class TestFiles:
    @pytest.mark.parametrize("place", ["/", "/usr", "/etc", "/app", "/ignite", "/dev"])
    async def test_the_tree_is_read_only(self, replica: pb.ReplicaStatus, place: str) -> None:
        assert await ask(replica, f"open('{place}/new', 'w')") in (-13, -30)

    async def test_home_and_tmp_are_writable(self, replica: pb.ReplicaStatus) -> None:
        code = """
import os, pathlib
home = pathlib.Path.home()
(home / 'file').write_text('x')
pathlib.Path('/tmp/file').write_text('x')
result = [str(home), os.environ['HOME']]
"""
        assert await ask(replica, code) == ["/tmp/ignite", "/tmp/ignite"]

    async def test_tmp_is_bounded(self, replica: pb.ReplicaStatus) -> None:
        code = """
import os
stat = os.statvfs('/tmp')
result = stat.f_blocks * stat.f_frsize
"""
        assert await ask(replica, code) == 256 * 1024 * 1024

    @pytest.mark.parametrize(
        "path", ["/root", "/home", "/var", "/run/ignite/../../../root", "/etc/shadow", "/boot"]
    )
    async def test_the_machines_folders_are_not_there(
        self, replica: pb.ReplicaStatus, path: str
    ) -> None:
        assert await ask(replica, f"import os; os.stat('{path}')") == -2

    async def test_the_machines_users_are_not_named(self, replica: pb.ReplicaStatus) -> None:
        names = await ask(replica, "import pwd; result = [e.pw_name for e in pwd.getpwall()]")
        assert names == ["root", "app"]

    async def test_another_replicas_files_are_out_of_reach(
        self, spawner: Spawner, client: Client
    ) -> None:
        app = spawner.app(PROBE)
        first, second = await client.ready(app), await client.ready(app)
        code = "open('/tmp/ignite/secret', 'w').write('x')\nopen('/dev/shm/secret', 'w').write('x')"
        assert await ask(first, code) is None
        code = "import os; result = os.listdir('/tmp/ignite') + os.listdir('/dev/shm')"
        assert await ask(second, code) == []
        sockets = await ask(second, "import os; result = os.listdir('/run/ignite')")
        assert sockets == ["s"]

    async def test_no_descriptor_of_ours_is_open(self, replica: pb.ReplicaStatus) -> None:
        code = """
import os
result = []
for name in os.listdir('/proc/self/fd'):
    try:
        result.append(os.readlink(f'/proc/self/fd/{name}'))
    except OSError:
        pass
"""
        for target in await ask(replica, code):
            assert target.startswith(("/dev/null", "pipe:", "socket:", "anon_inode:", "/proc")), (
                target
            )


class TestProcesses:
    async def test_no_other_process_is_seen(self, replica: pb.ReplicaStatus) -> None:
        code = "import os; result = sorted(int(n) for n in os.listdir('/proc') if n.isdigit())"
        assert await ask(replica, code) == [1, 2]

    async def test_a_fork_bomb_is_bounded(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(PROBE), pids_max=32)
        code = """
import os, signal, time
made = []
try:
    while len(made) < 1000:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        made.append(pid)
except OSError:
    pass
result = len(made)
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
        assert 10 < await ask(status, code) < 32

    async def test_what_it_forks_ends_with_it(self, spawner: Spawner, client: Client) -> None:
        status = await client.ready(spawner.app(PROBE))
        code = """
import subprocess
for _ in range(5):
    subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True)
"""
        await ask(status, code)
        uid = await ask(status, "import os; result = os.getuid()")
        alive = _processes_of(uid, _pid(spawner))
        assert len(alive) >= 6
        await client.stop(status.replica_id)
        assert not [pid for pid in alive if Path(f"/proc/{pid}").exists()]

    async def test_a_crash_leaves_no_core_file(self, replica: pb.ReplicaStatus) -> None:
        code = "import resource; result = resource.getrlimit(resource.RLIMIT_CORE)"
        assert await ask(replica, code) == [0, 0]


class TestNetwork:
    async def test_the_machines_loopback_is_not_reached(self, replica: pb.ReplicaStatus) -> None:
        server = await asyncio.start_server(lambda _r, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert await ask(replica, code) == -111
        server.close()
        await server.wait_closed()

    @pytest.mark.parametrize("family", [16, 17, 38, 40, 44])  # netlink packet alg vsock xdp
    async def test_odd_socket_families_are_refused(
        self, replica: pb.ReplicaStatus, family: int
    ) -> None:
        assert await ask(replica, f"import socket; socket.socket({family}, 3, 0)") == -97

    async def test_its_own_loopback_works(self, replica: pb.ReplicaStatus) -> None:
        code = """
import socket
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname(), 2)
result = 'connected'
"""
        assert await ask(replica, code) == "connected"


class TestSystemCalls:
    @pytest.mark.parametrize(
        ("number", "arguments"),
        [
            (165, "b'none', b'/tmp', b'tmpfs', 0, 0"),  # mount
            (272, "0x10000000"),  # unshare(CLONE_NEWUSER)
            (308, "0, 0"),  # setns
            (101, "0, 0, 0, 0"),  # ptrace
            (321, "0, 0, 0"),  # bpf
            (298, "0, 0, -1, -1, 0"),  # perf_event_open
            (425, "1, 0"),  # io_uring_setup
            (323, "0"),  # userfaultfd
            (250, "0, 0, 0"),  # keyctl
            (310, "1, 0, 0, 0, 0, 0"),  # process_vm_readv
            (135, "0xffffffff"),  # personality
            (161, "b'/tmp'"),  # chroot
            (56, "0x10000011, 0, 0, 0, 0"),  # clone(CLONE_NEWUSER)
        ],
    )
    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers are those of x86_64")
    async def test_a_dangerous_call_is_refused(
        self, replica: pb.ReplicaStatus, number: int, arguments: str
    ) -> None:
        code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall({number}, {arguments}) == -1
result = ctypes.get_errno()
"""
        assert await ask(replica, code) == 1

    async def test_threads_forks_and_semaphores_work(self, replica: pb.ReplicaStatus) -> None:
        code = """
import multiprocessing, subprocess, threading
done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start(); thread.join()
multiprocessing.Lock()
done.append(int(subprocess.check_output(['/bin/echo', '2'])))
result = done
"""
        assert await ask(replica, code) == [1, 2]


class TestEnvironment:
    async def test_it_holds_the_apps_and_the_contracts_variables_alone(
        self, spawner: Spawner, client: Client
    ) -> None:
        env = {
            "MINE": "x=y\n",
            "PATH": "/evil",
            "HOME": "/evil",
            "LD_PRELOAD": "/evil.so",
            "GLIBC_TUNABLES": "glibc.malloc.check=1",
            "IGNITE_SOCKET": "/evil",
        }
        status = await client.ready(spawner.app(PROBE), env=env)
        found = await ask(status, "import os; result = dict(os.environ)")
        assert found["MINE"] == "x=y\n"
        assert found["PATH"] == "/usr/local/bin:/usr/bin:/bin"
        assert found["HOME"] == "/tmp/ignite"
        assert found["IGNITE_SOCKET"] == "/run/ignite/s"
        assert found["IGNITE_FUNCTION_ID"] == "acme/app"
        assert "/evil" not in str(found)
        assert "GLIBC_TUNABLES" not in found
        known = {"MINE", "PATH", "HOME", "LANG", "LC_CTYPE", "TMPDIR", "PORT", "PWD"}
        assert not {name for name in found if not name.startswith("IGNITE_")} - known

    async def test_no_command_line_on_the_machine_shows_it(
        self, spawner: Spawner, client: Client
    ) -> None:
        status = await client.ready(spawner.app(PROBE), env={"TOKEN": "very-secret-value"})
        uid = await ask(status, "import os; result = os.getuid()")
        for pid in (*_processes_of(uid, _pid(spawner)), status.pid):
            assert b"very-secret-value" not in Path(f"/proc/{pid}/cmdline").read_bytes()


class TestSocketFolder:
    async def test_it_is_nobodys_to_change_once_the_replica_serves(
        self, replica: pb.ReplicaStatus
    ) -> None:
        folder = Path(replica.unix_path).parent
        about = folder.stat()
        assert about.st_uid == 0
        assert about.st_mode & 0o7777 == 0o755
        assert folder.parent.stat().st_mode & 0o007 == 0
        for code in (
            "os.rename('/run/ignite/s', '/run/ignite/t')",
            "os.unlink('/run/ignite/s')",
            "os.symlink('/', '/run/ignite/link')",
            "os.link('/run/ignite/s', '/run/ignite/t')",
            "os.chmod('/run/ignite', 0o777)",
        ):
            assert await ask(replica, f"import os; {code}") in (-1, -13), code
        assert os.listdir(folder) == ["s"]

    @pytest.mark.parametrize(
        "code", ["os.symlink('../../spawner.sock', {0!r})", "open({0!r}, 'w')", "os.mkdir({0!r})"]
    )
    async def test_without_a_socket_of_its_own_it_never_serves(
        self, spawner: Spawner, client: Client, code: str
    ) -> None:
        app = f"""
            import os
            def replace(source, target):
                os.unlink(source)
                {code.format("/run/ignite/s")}
            os.replace = replace
            def handler(body, context):
                return "served"
        """
        ended = await client.ended(await client.start(spawner.app(app)))
        assert ended.reason == "StartTimeout"
        assert ("system", "there is no socket at IGNITE_SOCKET: not ready") in await client.logs(
            ended.replica_id
        )

    async def test_it_cannot_fill_the_machines_disk(self, spawner: Spawner, client: Client) -> None:
        app = """
            try:
                open('/run/ignite/x', 'wb').write(bytes(100 << 20))
            except OSError as error:
                found = error.errno
            def handler(body, context):
                return str(found)
        """
        status = await client.ready(spawner.app(app), memory_mb=512)
        assert (await call(status)).endswith(str(errno.ENOSPC).encode())
        # And what it took, others do not miss.
        other = await client.ready(spawner.app(PROBE))
        await client.stop(other.replica_id)
        await client.stop(status.replica_id)

    async def test_nothing_there_can_be_run(self, spawner: Spawner, client: Client) -> None:
        app = """
            import os, shutil
            shutil.copy('/bin/true', '/run/ignite/true')
            os.chmod('/run/ignite/true', 0o755)
            try:
                os.execv('/run/ignite/true', ['true'])
            except OSError as error:
                found = error.errno
            def handler(body, context):
                return str(found)
        """
        status = await client.ready(spawner.app(app))
        assert (await call(status)).endswith(str(errno.EACCES).encode())
        await client.stop(status.replica_id)

    async def test_a_link_left_there_is_not_followed(
        self, spawner: Spawner, client: Client, tmp_path: Path
    ) -> None:
        kept = tmp_path / "kept"
        kept.mkdir()
        (kept / "file").write_text("x")
        app = f"""
            import os
            os.symlink('{kept}', '/run/ignite/link')
            def handler(body, context):
                return "served"
        """
        status = await client.ready(spawner.app(app))
        await client.stop(status.replica_id)
        assert (kept / "file").exists()
        assert not os.path.lexists(Path(status.unix_path).parent)


def _processes_of(uid: int, spawner: int) -> list[int]:
    """Return a replica's processes; another spawner on this machine may use the same uid."""
    parents: dict[int, tuple[int, int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents[int(folder.name)] = (parent, folder.stat().st_uid)
        except OSError:
            continue
    return [
        pid
        for pid, (_, owner) in parents.items()
        if owner == uid and _is_below(pid, spawner, parents)
    ]


def _is_below(pid: int, top: int, parents: dict[int, tuple[int, int]]) -> bool:
    while pid in parents and pid != top:
        pid = parents[pid][0]
    return pid == top


def _pid(spawner: Spawner) -> int:
    assert spawner.process is not None
    return spawner.process.pid
