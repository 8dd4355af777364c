"""What app code and compiles reach in a filtered network: the internet, and nothing of ours."""

# ruff: noqa: ASYNC240 - small commands of the machine are part of what is tested

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.network import Internet, internet, needs_network_tools, run_inside
from tests.support.spawner import WAYS, Client, Spawner, call, client, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap, needs_network_tools]

FILTERED = {"IGNITE__RUNTIME__EGRESS": "filtered", "IGNITE__BUILD__EGRESS": "filtered"}
METADATA = "169.254.169.254"

# Runs the posted Python and answers its `result`, or the number of the OSError it ends with.
PROBE = """
    def handler(body, context):
        names = {}
        try:
            exec(body.decode(), names)
        except OSError as error:
            return {"errno": error.errno or 110}
        return {"result": names.get("result")}
"""
# Says who we are for the other side, or with which error the connection failed.
CONNECT = """
import socket
def connect(host, port, family=socket.AF_INET):
    wire = socket.socket(family)
    wire.settimeout(5)
    try:
        wire.connect((host, port))
        return wire.recv(100).decode()
    except OSError as error:
        return error.errno or 110
    finally:
        wire.close()
"""


@pytest.fixture(scope="module")
def outside() -> Iterator[Internet]:
    with internet({"good.test": [""], "turning.test": ["", METADATA]}) as made:
        yield made


@pytest.fixture(scope="module", params=WAYS)
def spawner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, outside: Internet
) -> Iterator[Spawner]:
    """A spawner for each way of starting a replica; its resolver is the test's."""
    env = {**WAYS[request.param], **FILTERED, "IGNITE__RUNTIME__RESOLVERS": outside.address}
    made = Spawner(tmp_path_factory.mktemp("spawner") / "data", env=env)
    made.start()
    yield made
    made.close()
    log = (made.data / "spawner.log").read_text()
    assert "another way" not in log, log
    assert ("fork server started" in log) == (request.param != "bwrap")
    assert table_of(made) not in tables()


@pytest.fixture
async def replica(spawner: Spawner, client: Client) -> AsyncIterator[pb.ReplicaStatus]:
    status = await client.ready(spawner.app(PROBE))
    yield status
    await client.stop(status.replica_id)


async def ask(status: pb.ReplicaStatus, code: str) -> Any:
    """Run `code` inside; return its result, or the OSError's number as a negative."""
    answer = await call(status, code.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    found = json.loads(body)
    return -found["errno"] if "errno" in found else found["result"]


async def connect(status: pb.ReplicaStatus, host: str, port: int, family: str = "AF_INET") -> Any:
    """Connect from inside; return what the other side says, or the error's number."""
    return await ask(status, f"{CONNECT}\nresult = connect({host!r}, {port}, socket.{family})")


async def address_of(status: pb.ReplicaStatus) -> str:
    """Return a replica's own address, as it sees it."""
    code = """
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.connect(('198.51.100.250', 9))
result = asking.getsockname()[0]
"""
    return str(await ask(status, code))


def own_addresses(family: int = 4) -> list[str]:
    """Return this machine's addresses, loopback's included."""
    command = ["ip", "-json", f"-{family}", "addr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return [
        str(info["local"])
        for link in json.loads(done.stdout)
        if not link["ifname"].startswith(("igt", "tin"))
        for info in link["addr_info"]
        if info["scope"] in ("host", "global")
    ]


def tables() -> str:
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return done.stdout


def flush(spawner: Spawner) -> None:
    subprocess.run(["nft", "delete", "table", "inet", table_of(spawner)], check=True)


def table_of(spawner: Spawner) -> str:
    return f"ignite_{spawner.layout.run.name}"


def interfaces(spawner: Spawner) -> list[str]:
    """Return the machine's ends of this spawner's wires."""
    return [name for name in os.listdir("/sys/class/net") if spawner.layout.run.name in name]


@contextmanager
def listening(family: int = socket.AF_INET, address: str = "0.0.0.0") -> Iterator[int]:
    """Serve on all addresses of this machine, as Postgres, the vault or an API might."""
    with socket.socket(family, socket.SOCK_STREAM) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((address, 0))
        server.listen()
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


class TestOutside:
    async def test_the_internet_is_reached_by_the_machines_address(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        assert await connect(replica, outside.address, 80) == outside.link

    async def test_it_is_reached_by_name(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        code = f"{CONNECT}\nresult = connect('good.test', 80)"
        assert await ask(replica, code) == outside.link

    async def test_names_are_answered_over_connections_as_well(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        code = """
import socket
server = open('/etc/resolv.conf').read().split()[1]
question = bytes.fromhex('abcd01000001000000000000') + b'\\4good\\4test\\0\\0\\1\\0\\1'
with socket.create_connection((server, 53), 5) as wire:
    wire.sendall(len(question).to_bytes(2, 'big') + question)
    answer = wire.makefile('rb').read(2 + len(question) + 16)
result = [answer[2:4].hex(), socket.inet_ntoa(answer[-4:])]
"""
        assert await ask(replica, code) == ["abcd", outside.address]

    async def test_a_name_that_is_none_fails(self, replica: pb.ReplicaStatus) -> None:
        code = """
import socket
try:
    socket.gethostbyname('missing.test')
except socket.gaierror as error:
    result = error.errno
"""
        assert await ask(replica, code) == socket.EAI_NONAME


class TestTheMachine:
    async def test_none_of_its_addresses_is_reached(self, replica: pb.ReplicaStatus) -> None:
        with listening() as port:
            for address in own_addresses():
                # On loopback, its own, nobody listens; everything else is refused on the way.
                wanted = 111 if address.startswith("127.") else 113
                assert await connect(replica, address, port) == wanted, address

    async def test_nor_by_the_gateways_address(self, replica: pb.ReplicaStatus) -> None:
        gateway = await ask(replica, "result = open('/etc/resolv.conf').read().split()[1]")
        with listening() as port:
            assert await connect(replica, gateway, port) == 113

    async def test_nor_by_ipv6(self, replica: pb.ReplicaStatus) -> None:
        assert await connect(replica, "::ffff:10.0.0.1", 80, "AF_INET6") == 113
        assert await connect(replica, "2001:db8::1", 80, "AF_INET6") == 101
        names = await ask(replica, "result = open('/proc/net/if_inet6').read()")
        assert [line.split()[-1] for line in names.splitlines()] in ([], ["lo"])
        with listening(socket.AF_INET6, "::") as port:
            for address in own_addresses(6):
                wanted = (111, 99) if address == "::1" else (101,)
                assert await connect(replica, address, port, "AF_INET6") in wanted, address

    async def test_nor_its_abstract_sockets(self, replica: pb.ReplicaStatus) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"\0ignite-test-{os.getpid()}")
            server.listen()
            code = f"""
import socket
socket.socket(socket.AF_UNIX).connect('\\0ignite-test-{os.getpid()}')
"""
            assert await ask(replica, code) == -111

    @pytest.mark.parametrize(
        "address",
        [METADATA, "168.63.129.16", "10.0.0.1", "172.17.0.1", "192.168.1.1", "100.100.100.200"],
    )
    async def test_private_networks_and_metadata_are_refused_at_once(
        self, replica: pb.ReplicaStatus, address: str
    ) -> None:
        assert await connect(replica, address, 80) == 113

    async def test_a_name_that_turns_to_a_denied_address_does_not_help(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        code = f"{CONNECT}\nresult = [connect('turning.test', 80) for _ in range(4)]"
        assert sorted(await ask(replica, code), key=str) == [113, 113, outside.link, outside.link]


class TestOthers:
    async def test_another_replica_is_not_reached(self, spawner: Spawner, client: Client) -> None:
        app = spawner.app(PROBE)
        first, second = await client.ready(app), await client.ready(app)
        port = await ask(second, LISTEN)
        address = await address_of(second)
        assert address != await address_of(first)
        assert await connect(second, address, port) == "inside"
        assert await connect(first, address, port) == 113
        for status in (first, second):
            await client.stop(status.replica_id)

    async def test_what_listens_inside_is_not_reached_from_outside(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        port, address = await ask(replica, LISTEN), await address_of(replica)
        code = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)
except OSError as error:
    print(type(error).__name__)
"""
        for pid in (outside.process.pid, os.getpid()):
            found = await asyncio.to_thread(run_inside, pid, code, address, str(port))
            assert found in ("TimeoutError", "PermissionError", "OSError"), found
        assert await connect(replica, address, port) == "inside"

    async def test_one_cannot_take_the_machines_connections(
        self, spawner: Spawner, client: Client, outside: Internet
    ) -> None:
        app = spawner.app(PROBE)
        greedy, other = await client.ready(app), await client.ready(app)
        # The machine remembers each for half a minute, though nobody answers.
        code = f"""
import socket
kept = []
for _ in range(1100):
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    kept.append(sending)
    try:
        sending.connect(('{outside.address}', 9))
        sending.send(b'x')
    except OSError:
        pass
"""
        assert await ask(greedy, code) is None
        assert await connect(greedy, outside.address, 80) == 113
        assert await connect(other, outside.address, 80) == outside.link
        for status in (greedy, other):
            await client.stop(status.replica_id)

    async def test_no_address_but_the_own_can_be_sent_from(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        own = await address_of(replica)
        last = int(own.rsplit(".", 1)[1])
        other = f"{own.rsplit('.', 1)[0]}.{last - 1 if last > 1 else last + 1}"
        code = f"import socket; socket.socket().bind(('{other}', 0))"
        assert await ask(replica, code) == -99
        # IP_FREEBIND lets anybody bind such an address; nothing can be sent from it.
        code = f"""
import socket
spoofing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
spoofing.setsockopt(socket.IPPROTO_IP, 15, 1)
spoofing.bind(('{other}', 0))
spoofing.sendto(b'spoofed', ('{outside.address}', 7))
"""
        assert await ask(replica, code) in (-errno.EINVAL, -errno.ENETUNREACH)
        for kind in ("SOCK_RAW, socket.IPPROTO_ICMP", "SOCK_RAW, socket.IPPROTO_RAW"):
            code = f"import socket; socket.socket(socket.AF_INET, socket.{kind})"
            assert await ask(replica, code) == -1
        assert await ask(replica, "import socket; socket.socket(17, 3, 0)") == -97

    async def test_even_root_in_its_network_sends_from_its_address_alone(
        self, replica: pb.ReplicaStatus, outside: Internet
    ) -> None:
        code = """
import socket, subprocess, sys
subprocess.run(['ip', 'addr', 'add', '203.0.113.77/32', 'dev', 'eth0'], check=True)
for source in ('203.0.113.77', sys.argv[2]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind((source, 0))
        sending.sendto(source.encode(), (sys.argv[1], 7))
"""
        own = await address_of(replica)
        pid = replica.pid
        for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(line)
        await asyncio.to_thread(run_inside, pid, code, outside.address, own)
        # The first that arrives is the second that was sent.
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(outside.heard) == (outside.link, own)


# Serves inside, on all addresses there.
LISTEN = """
import socket, threading
server = socket.create_server(('0.0.0.0', 0))
def serve():
    while True:
        wire, _ = server.accept()
        with wire:
            wire.sendall(b'inside')
threading.Thread(target=serve, daemon=True).start()
result = server.getsockname()[1]
"""


class TestTheSandbox:
    async def test_no_descriptor_of_a_network_is_open_inside(
        self, replica: pb.ReplicaStatus
    ) -> None:
        code = """
import os
result = []
for name in os.listdir('/proc/self/fd'):
    try:
        result.append(os.readlink(f'/proc/self/fd/{name}'))
    except OSError:
        pass
"""
        assert not [one for one in await ask(replica, code) if one.startswith("net:")]

    async def test_no_network_is_used_twice(self, spawner: Spawner, client: Client) -> None:
        app, seen = spawner.app(PROBE), set()
        for _ in range(3):
            status = await client.ready(app)
            seen.add(await address_of(status))
            await client.stop(status.replica_id)
        assert len(seen) == 3

    async def test_the_report_says_it(self, client: Client) -> None:
        report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
        layers = {feature.name: feature for feature in report.features}
        for name in ("network", "compile network"):
            assert layers[name].enforced
            assert "internet" in layers[name].detail


class TestCompiles:
    async def test_they_reach_the_internet_and_nothing_of_the_machine(
        self, client: Client, outside: Internet
    ) -> None:
        with listening() as port:
            targets = [(outside.address, 80), ("good.test", 80), (METADATA, 80), ("10.0.0.1", 80)]
            targets += [(address, port) for address in own_addresses()]
            code = f"{CONNECT}\nimport json\nprint(json.dumps([connect(*t) for t in {targets}]))"
            spec = {"command": ["{python}", "-c", code]}
            lines, result = await client.build(**spec)
        assert result.succeeded, result
        found = json.loads(next(text for stream, text in lines if stream == "stdout"))
        assert found[:4] == [outside.link, outside.link, 113, 113]
        assert outside.link not in found[4:]
        assert set(found[4:]) <= {111, 113}


class TestNone:
    """The strictest of the settings."""

    async def test_there_is_loopback_alone(self, tmp_path: Path, outside: Internet) -> None:
        for name, way in WAYS.items():
            env = {**way, "IGNITE__RUNTIME__EGRESS": "none"}
            made = Spawner(tmp_path / name, env=env)
            made.start()
            try:
                async with made.client() as client:
                    status = await client.ready(made.app(PROBE))
                    text = await ask(status, "result = open('/proc/net/dev').read()")
                    lines = [line for line in text.splitlines() if ":" in line]
                    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
                    for address in (outside.address, *own_addresses()):
                        assert await connect(status, address, 80) in (101, 111), address
                    assert await ask(status, "import os; os.stat('/etc/resolv.conf')") == -2
            finally:
                made.close()


class TestLife:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Iterator[Spawner]:
        made = Spawner(tmp_path / "own", env=FILTERED)
        made.start()
        yield made
        made.close()

    async def test_nothing_is_left_at_the_end(self, made: Spawner) -> None:
        async with made.client() as client:
            await client.ready(made.app(PROBE))
            assert interfaces(made)
            assert table_of(made) in tables()
        made.end()
        assert table_of(made) not in tables()
        await until_gone(made)

    async def test_a_killed_spawner_leaves_a_table_that_the_next_replaces(
        self, made: Spawner
    ) -> None:
        async with made.client() as client:
            await client.ready(made.app(PROBE))
        made.end(signal.SIGKILL)
        await until_gone(made)
        made.start()
        async with made.client() as client:
            status = await client.ready(made.app(PROBE))
            assert await connect(status, METADATA, 80) == 113
        made.end()
        assert table_of(made) not in tables()

    async def test_what_a_killed_one_left_goes_with_the_next_of_another(
        self, made: Spawner, tmp_path: Path
    ) -> None:
        made.end(signal.SIGKILL)
        other = Spawner(tmp_path / "other", env=FILTERED)
        other.start()
        try:
            assert table_of(made) not in tables()
            assert table_of(other) in tables()
        finally:
            other.close()

    async def test_rules_that_another_program_flushes_come_back(self, made: Spawner) -> None:
        flush(made)
        async with asyncio.timeout(20):
            while table_of(made) not in tables():  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.05)
        async with made.client() as client:
            status = await client.ready(made.app(PROBE))
            assert await connect(status, METADATA, 80) == 113

    async def test_exceptions_are_reached_by_those_they_are_for(self, tmp_path: Path) -> None:
        with internet() as private:
            denied = {"IGNITE__RUNTIME__EGRESS_DENY": "198.51.100.0/24"}
            allowed = {"IGNITE__BUILD__EGRESS_ALLOW": f"{private.address}/32"}
            made = Spawner(tmp_path / "data", env={**FILTERED, **denied, **allowed})
            made.start()
            try:
                async with made.client() as client:
                    status = await client.ready(made.app(PROBE))
                    assert await connect(status, private.address, 80) == 113
                    code = f"{CONNECT}\nprint(connect('{private.address}', 80))"
                    lines, _ = await client.build(command=["{python}", "-c", code])
                    assert ("stdout", private.link) in lines
            finally:
                made.close()

    async def test_the_package_index_is_reached_wherever_it_is(self, tmp_path: Path) -> None:
        with internet() as private:
            denied = {"IGNITE__RUNTIME__EGRESS_DENY": "198.51.100.0/24"}
            index = {"IGNITE__BUILD__INDEX_URL": f"http://{private.address}/simple"}
            made = Spawner(tmp_path / "data", env={**FILTERED, **denied, **index})
            made.start()
            try:
                async with made.client() as client:
                    code = f"{CONNECT}\nprint(connect('{private.address}', 80))"
                    lines, _ = await client.build(command=["{python}", "-c", code])
                    assert ("stdout", private.link) in lines
            finally:
                made.close()

    async def test_one_that_cannot_be_had_refuses(self, tmp_path: Path) -> None:
        env = {**FILTERED, "IGNITE__RUNTIME__NETWORK_RANGE": "198.19.0.0/30"}
        made = Spawner(tmp_path / "data", env=env)
        made.start()
        try:
            async with made.client() as client:
                report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
                assert not report.sufficient
                with pytest.raises(Exception, match="too small"):
                    await client.start(made.app(PROBE))
        finally:
            made.close()


async def until_gone(spawner: Spawner) -> None:
    """Return when the kernel has cleared the last wire away, which it does in its own time."""
    async with asyncio.timeout(20):
        while interfaces(spawner):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)
