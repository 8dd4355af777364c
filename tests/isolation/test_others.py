"""Attempts on other tenants, on the kernel and on what stands above a replica, by its own code."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.rig import PROBE, Served, ask, neighbour_of, spawner
from tests.support.spawner import Client, Spawner, call, client, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client", "spawner"]
pytestmark = [needs_root, needs_bwrap]

PIDFD_OPEN = 434
SECRET = "4be1-canary-of-another-tenant"
VICTIM = f"""
    import os
    kept = "{SECRET}-in-memory"
    open("/tmp/kept", "w").write("{SECRET}-in-a-file")
    def handler(body, context):
        return str(int(body) * 3)
"""


@pytest.fixture
async def neighbour(spawner: Spawner, client: Client) -> AsyncIterator[Served]:
    async with neighbour_of(spawner, client, VICTIM, env={"TOKEN": SECRET}) as made:
        yield made


@pytest.fixture
async def attacker(spawner: Spawner, client: Client) -> AsyncIterator[pb.ReplicaStatus]:
    status = await client.ready(spawner.app(PROBE))
    yield status
    await client.stop(status.replica_id, grace_secs=0)


async def run(status: pb.ReplicaStatus, code: str) -> Any:
    """`ask`, for code that needs ctypes: `call(number, …)` answers the result or minus errno."""
    start = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    found = libc.syscall(*arguments)
    return -ctypes.get_errno() if found == -1 else found
"""
    return await ask(status, start + code)


async def died(status: pb.ReplicaStatus) -> bytes:
    """Call an app that ends itself; return what it answered before."""
    try:
        return await call(status)
    except OSError:
        return b""


class TestSecretsOfOthers:
    async def test_no_file_that_can_be_read_holds_them(
        self, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        # Everything there is but the system's own programs, /proc of all processes included.
        code = f"""
import os, stat
wanted = b"{SECRET}"[:-1]
def look(path):
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, 'rb', buffering=0) as file:
            return wanted in file.read(1 << 20)
    except (OSError, ValueError):
        return False
result = []
seen = 0
for top in ('/app', '/etc', '/run', '/tmp', '/dev', '/opt', '/ignite', '/var', '/proc'):
    for folder, folders, names in os.walk(top):
        if folder == '/proc':
            folders[:] = [name for name in folders if name != str(os.getpid())]
        if '/task' in folder:
            folders[:] = []
        for name in names:
            seen += 1
            if look(os.path.join(folder, name)):
                result.append(os.path.join(folder, name))
assert seen > 100
"""
        assert await ask(attacker, code) == []
        await neighbour.is_served()

    async def test_memory_it_is_given_was_wiped(
        self, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        code = f"""
import mmap
wanted = b"{SECRET}"[:-1]
result = [bool(mmap.mmap(-1, 1 << 20).find(wanted) >= 0) for _ in range(40)]
"""
        assert not any(await ask(attacker, code))
        await neighbour.is_served()

    async def test_shared_memory_and_queues_are_not_shared(
        self, spawner: Spawner, client: Client, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        other = await client.ready(spawner.app(PROBE))
        make = """
import os
libc.shmget.restype = ctypes.c_int
result = [libc.shmget(0x1234, 4096, 0o1666), libc.msgget(0x1234, 0o1666),
          libc.semget(0x1234, 1, 0o1666)]
"""
        find = """
result = [libc.shmget(0x1234, 4096, 0), libc.msgget(0x1234, 0), libc.semget(0x1234, 1, 0)]
"""
        assert min(await run(other, make)) >= 0
        assert await run(attacker, find) == [-1, -1, -1]
        await client.stop(other.replica_id)
        await neighbour.is_served()

    async def test_abstract_sockets_are_not_shared(
        self, spawner: Spawner, client: Client, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        other = await client.ready(spawner.app(PROBE))
        code = """
import socket, sys
sys.kept = socket.socket(socket.AF_UNIX)
sys.kept.bind('\\0mine')
sys.kept.listen()
"""
        assert await ask(other, code) is None
        code = "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0mine')"
        assert await ask(attacker, code) == -errno.ECONNREFUSED
        await client.stop(other.replica_id)
        await neighbour.is_served()


class TestSignals:
    async def test_to_all_reach_its_own_alone(
        self, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        assert await ask(attacker, "import os\nos.kill(-1, 9)") in (None, -errno.ESRCH)
        await neighbour.is_served()
        assert await ask(attacker, "result = 1") == 1

    async def test_to_its_group_end_itself_alone(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        status = await client.ready(spawner.app("import os\ndef handler(b, c): os.killpg(0, 9)"))
        assert not await died(status)
        assert (await client.ended(status.replica_id)).reason == "Crashed"
        await neighbour.is_served()

    async def test_to_numbers_of_others_find_nobody(
        self, spawner: Spawner, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        assert spawner.process is not None
        for pid in (spawner.process.pid, os.getpid(), attacker.pid, os.getppid()):
            assert await ask(attacker, f"import os\nos.kill({pid}, 9)") == -errno.ESRCH
            assert (
                await run(attacker, f"result = call(434, {pid}, 0)") == -errno.ESRCH
            )  # pidfd_open
        await neighbour.is_served()


@pytest.fixture(scope="module")
def kept(spawner: Spawner) -> dict[str, pb.ReplicaStatus]:
    """One replica for the many attempts that change nothing."""
    assert spawner.process is not None
    return {}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers are those of x86_64")
class TestKernel:
    @pytest.fixture
    async def attacker(
        self, spawner: Spawner, client: Client, kept: dict[str, pb.ReplicaStatus]
    ) -> pb.ReplicaStatus:
        if "attacker" not in kept:
            kept["attacker"] = await client.ready(spawner.app(PROBE))
        return kept["attacker"]

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("ptrace", "101, 16, 1, 0, 0"),
            ("process_vm_readv", "310, 1, 0, 0, 0, 0, 0"),
            ("mount", "165, b'none', b'/tmp', b'tmpfs', 0, 0"),
            ("umount", "166, b'/tmp', 2"),
            ("open_tree", "428, -100, b'/', 1"),
            ("pivot_root", "155, b'/tmp', b'/tmp'"),
            ("keyctl", "250, 0, -3, 1"),
            ("add_key", "248, b'user', b'x', b'x', 1, -3"),
            ("request_key", "249, b'user', b'x', 0, -3"),
            ("setns", "308, 0, 0"),
            ("unshare", "272, 0x10000000"),
            ("bpf", "321, 0, 0, 0"),
            ("io_uring_setup", "425, 1, 0"),
            ("userfaultfd", "323, 0"),
            ("perf_event_open", "298, 0, 0, -1, -1, 0"),
            ("open_by_handle_at", "304, -100, 0, 0"),
            ("init_module", "175, 0, 0, b''"),
            ("kexec_load", "246, 0, 0, 0, 0"),
            ("reboot", "169, 0xfee1dead, 672274793, 0x1234567, 0"),
            ("sethostname", "170, b'x', 1"),
            ("settimeofday", "164, 0, 0"),
            ("syslog", "103, 3, 0, 0"),
            ("swapon", "167, b'/tmp/x', 0"),
            ("setuid", "105, 0"),
            ("setgid", "106, 0"),
            ("setresuid", "117, 0, 0, 0"),
            ("setgroups", "116, 0, 0"),
            ("capset", "126, b'\\x22\\x05\\x08\\x20' + bytes(4), b'\\xff' * 24"),
            ("mknod of a disk", "133, b'/tmp/disk', 0o60666, 0x800"),
            ("chown to root", "92, b'/tmp/ignite', 0, 0"),
            ("raise priority", "141, 0, 0, -20"),
            ("realtime", "144, 0, 1, b'\\x01\\x00\\x00\\x00'"),
            ("sysfs", "139, 3"),
            ("quotactl", "179, 0, 0, 0, 0"),
        ],
    )
    async def test_a_call_that_could_be_a_way_out_is_refused(
        self, attacker: pb.ReplicaStatus, name: str, arguments: str
    ) -> None:
        found = await run(attacker, f"result = call({arguments})")
        assert found in (-errno.EPERM, -errno.EACCES), name

    async def test_more_than_its_bounds_cannot_be_asked_for(
        self, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        code = """
import resource
result = []
for name in ('CORE', 'NOFILE'):
    number = getattr(resource, f'RLIMIT_{name}')
    try:
        resource.setrlimit(number, (1 << 20, 1 << 20))
        result.append(name)
    except (ValueError, OSError):
        pass
"""
        assert await ask(attacker, code) == []
        await neighbour.is_served()

    @pytest.mark.parametrize(
        "path",
        [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/irq/default_smp_affinity",
            "/proc/self/oom_score_adj_down",
            "/proc/self/uid_map",
            "/proc/1/mem",
            "/proc/1/oom_score_adj",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/kernel/uevent_helper",
            "/dev/mem",
            "/dev/kmsg",
            "/dev/sda",
            "/dev/fuse",
            "/dev/net/tun",
        ],
    )
    async def test_the_kernels_files_cannot_be_written(
        self, attacker: pb.ReplicaStatus, path: str
    ) -> None:
        found = await ask(attacker, f"import os\nos.write(os.open('{path}', os.O_WRONLY), b'1')")
        refused = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS, errno.EIO, errno.ENXIO)
        assert -found in refused, os.strerror(-found)

    @pytest.mark.parametrize(
        "path",
        ["/proc/kcore", "/proc/kmsg", "/proc/1/environ", "/proc/1/mem", "/proc/vmallocinfo"],
    )
    async def test_the_kernels_secrets_cannot_be_read(
        self, attacker: pb.ReplicaStatus, path: str
    ) -> None:
        found = await ask(attacker, f"import os\nos.read(os.open('{path}', os.O_RDONLY), 1)")
        assert -found in (errno.EACCES, errno.EPERM, errno.ENOENT), os.strerror(-found)

    async def test_addresses_of_the_kernel_are_hidden(self, attacker: pb.ReplicaStatus) -> None:
        code = """
try:
    lines = open('/proc/kallsyms').read().splitlines()
except OSError:
    lines = []
result = [line for line in lines if int(line.split()[0], 16)][:3]
"""
        assert await ask(attacker, code) == []

    async def test_keys_of_others_are_not_listed(self, attacker: pb.ReplicaStatus) -> None:
        code = """
try:
    result = open('/proc/keys').read()
except OSError:
    result = ''
"""
        assert await ask(attacker, code) == ""

    async def test_a_program_with_the_set_uid_bit_gives_nothing(
        self, attacker: pb.ReplicaStatus, neighbour: Served
    ) -> None:
        code = """
import os, subprocess
found = [f'/usr/bin/{name}' for name in ('su', 'mount', 'passwd', 'newgrp', 'sudo')
         if os.path.exists(f'/usr/bin/{name}') and os.stat(f'/usr/bin/{name}').st_mode & 0o4000]
script = "grep -E '^(Uid|CapEff)' /proc/self/status"
shells = []
for path in found:
    done = subprocess.run([path, '-c', script], capture_output=True, stdin=subprocess.DEVNULL)
    shells.append(done.stdout.decode())
result = [len(found), [text for text in shells if 'Uid:\\t0' in text]]
"""
        there, roots = await ask(attacker, code)
        assert there
        assert roots == []
        code = """
import os, shutil, subprocess
shutil.copy('/bin/true', '/tmp/x')
os.chmod('/tmp/x', 0o6755)
result = subprocess.call(['/tmp/x'])
"""
        assert await ask(attacker, code) in (0, -errno.EACCES)
        await neighbour.is_served()


class TestCrashes:
    @pytest.mark.parametrize("number", [6, 11, 4, 31])
    async def test_one_leaves_no_core_file(
        self, spawner: Spawner, client: Client, neighbour: Served, number: int
    ) -> None:
        before = _cores(spawner)
        app = f"import os\ndef handler(body, context):\n    os.kill(os.getpid(), {number})\n"
        status = await client.ready(spawner.app(app))
        assert not await died(status)
        ended = await client.ended(status.replica_id)
        assert ended.reason == "Crashed"
        assert _cores(spawner) == before
        await neighbour.is_served()


def _cores(spawner: Spawner) -> set[Path]:
    places = (spawner.data, spawner.layout.run, Path("/"), Path("/tmp"))
    return {path for place in places for path in place.glob("*core*")}
