"""The internet, as far as tests need one: a network namespace of their own, beside the machine's.

A process in it serves TCP (it answers who called) and names. It ends with the test's process, and
with it go the namespace, the wire and the routes, so that nothing has to be cleared up.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_TOOLS = ("ip", "nft", "nsenter", "unshare")
_MISSING = [name for name in _TOOLS if shutil.which(name) is None]


def _missing() -> str:
    if _MISSING:
        return ", ".join(_MISSING)
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, check=False, timeout=30)
    if listed.returncode:
        return "the right to load nftables rules"
    is_writable = os.access("/proc/sys/net/ipv4/conf/default/forwarding", os.W_OK)
    return "" if is_writable else "a writable /proc/sys/net"


_REASON = _missing()
needs_network_tools = pytest.mark.skipif(bool(_REASON), reason=f"needs {_REASON}")

# TCP on port 80: says the caller's address. UDP on port 7: keeps what it gets, and says it on
# standard output line by line. UDP and TCP on port 53: answers from a table of names, each time
# with the next address of the name's.
_SERVER = """
import asyncio, itertools, json, socket, struct, sys
sys.stdin.readline()
address, names = sys.argv[1], json.loads(sys.argv[2])
turns = {name: itertools.cycle(found) for name, found in names.items()}

def resolve(question):
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += question[at] + 1
    kind = struct.unpack("!H", question[at + 1 : at + 3])[0]
    name = ".".join(labels).lower()
    found = [next(turns[name])] if name in turns and kind == 1 else []
    code = 0 if name in turns else 3
    head = question[:2] + struct.pack("!BBHHHH", 0x85, 0x80 | code, 1, len(found), 0, 0)
    answers = b"".join(
        b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in found
    )
    return head + question[12 : at + 5] + answers

class Names(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        self.transport.sendto(resolve(data), peer)

class Heard(asyncio.DatagramProtocol):
    def datagram_received(self, data, peer):
        print(json.dumps([peer[0], data.decode()]), flush=True)

async def say(reader, writer):
    writer.write(writer.get_extra_info("peername")[0].encode())
    await writer.drain()
    writer.close()

async def names_by_stream(reader, writer):
    size = int.from_bytes(await reader.readexactly(2), "big")
    answer = resolve(await reader.readexactly(size))
    writer.write(len(answer).to_bytes(2, "big") + answer)
    await writer.drain()
    writer.close()

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.start_server(say, address, 80)
    await asyncio.start_server(names_by_stream, address, 53)
    await loop.create_datagram_endpoint(Names, (address, 53))
    await loop.create_datagram_endpoint(Heard, (address, 7))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Internet:
    """One made by a test. `address` is its server's, `link` the machine's towards it."""

    address: str
    link: str
    process: "subprocess.Popen[str]"

    def run(self, code: str, *arguments: str) -> str:
        """Run Python in there; return what it prints."""
        return run_inside(self.process.pid, code, *arguments)

    def heard(self) -> tuple[str, str]:
        """Return sender and text of the next datagram on port 7."""
        assert self.process.stdout is not None
        sender, text = json.loads(self.process.stdout.readline())
        return str(sender), str(text)


def run_inside(pid: int, code: str, *arguments: str) -> str:
    """Run Python as root in the network of a process; return what it prints."""
    command = ["nsenter", "-t", str(pid), "-n", "--", sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def internet(names: Mapping[str, list[str]] | None = None) -> Iterator[Internet]:
    """Make one; `names` are answered in turn, "" standing for the server's own address."""
    for _ in range(50):
        number = secrets.randbelow(120) * 2
        # Of the block that is set aside for examples; no real machine has them.
        address, link = f"198.51.100.{number}", f"198.51.100.{number + 1}"
        table = {
            name: [one or address for one in addresses] for name, addresses in (names or {}).items()
        }
        process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", _SERVER, address, json.dumps(table)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if not _wire(process.pid, address, link):
                continue
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield Internet(address, link, process)
            return
        finally:
            process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    raise AssertionError("no address is free")


def _wire(pid: int, address: str, link: str) -> bool:
    ours, theirs = f"tin{secrets.token_hex(5)}", "eth0"
    own = os.readlink("/proc/self/ns/net")
    # `unshare` has made the namespace once it has become the server.
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        os.sched_yield()
    _ip(None, f"link add {ours} type veth peer name {theirs} netns {pid}")
    Path(f"/proc/sys/net/ipv4/conf/{ours}/forwarding").write_text("1")
    if not _ip(
        None,
        f"link set {ours} up",
        f"route add {address}/32 dev {ours}",
        f"addr add {link}/32 dev {ours}",
        is_sure=False,
    ):
        return False
    inside = ("link set lo up", f"link set {theirs} up", f"addr add {address}/32 dev {theirs}")
    _ip(pid, *inside, f"route add {link} dev {theirs}", f"route add default via {link}")
    return True


def _ip(pid: int | None, *lines: str, is_sure: bool = True) -> bool:
    inside = [] if pid is None else ["nsenter", "-t", str(pid), "-n", "--"]
    done = subprocess.run(
        [*inside, "ip", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not is_sure or done.returncode == 0, done.stderr
    return done.returncode == 0
