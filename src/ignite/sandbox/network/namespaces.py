"""Making one network namespace with its wire, by the system's own `ip`.

A namespace has no name: it lives as long as our descriptor of it or a process inside. So nothing is
left behind by a spawner that was killed, for with the namespace goes the wire, and with the wire
its address and route. One is used by one sandbox and never again.
"""

import ctypes
import errno
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from ignite.sandbox.network.plan import Kind, Plan

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_SECS = 10
_HERE = Path("/proc/sys/net")


class NetworkFailed(Exception):
    """The machine did not make what was asked for; the text says why."""


class AddressTaken(NetworkFailed):
    """Somebody else on this machine has the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where one sandbox is to sit in the network."""

    kind: Kind
    number: int


@dataclass(slots=True, kw_only=True)
class Namespace:
    """One network namespace. Owns its descriptor until `close`."""

    descriptor: int
    interface: str
    address: IPv4Address

    @property
    def path(self) -> str:
        """Where a child of ours that is root finds it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def close(self) -> None:
        """Let go. It ends with the last process inside."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def make_namespace(
    plan: Plan, seat: Seat, routes: Sequence[str], *, ip: str, mtu: int
) -> Namespace:
    """Make one for `seat`, with `routes`. Blocks for some milliseconds; raises NetworkFailed."""
    made: list[Namespace] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            made.append(_make(plan, seat, routes, ip=ip, mtu=mtu))
        except (OSError, NetworkFailed, subprocess.SubprocessError) as error:
            failed.append(error)

    # A thread of its own: it moves into the new namespace, and what it starts with it.
    thread = threading.Thread(target=work, name="network")
    thread.start()
    thread.join()
    if failed:
        raise failed[0] if isinstance(failed[0], NetworkFailed) else NetworkFailed(str(failed[0]))
    try:
        _raise_wire(plan, seat, ip=ip)
    except BaseException:
        made[0].close()
        raise
    return made[0]


def _make(plan: Plan, seat: Seat, routes: Sequence[str], *, ip: str, mtu: int) -> Namespace:
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    namespace = Namespace(
        descriptor=os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC),
        interface=plan.interface(seat.kind, seat.number),
        address=plan.address(seat.number),
    )
    try:
        # Not on loopback, where a program may well want ::1.
        _switch(_HERE / "ipv6/conf/default/disable_ipv6", "1")
        outside = f"name {namespace.interface} mtu {mtu} netns /proc/{os.getpid()}/ns/net"
        _run(
            ip,
            "link set lo up",
            f"link add eth0 mtu {mtu} type veth peer {outside}",
            f"addr add {namespace.address}/32 dev eth0",
            "link set eth0 up",
            *(f"route add {route}" for route in routes),
        )
    except BaseException:
        namespace.close()
        raise
    return namespace


def _raise_wire(plan: Plan, seat: Seat, *, ip: str) -> None:
    """Set up the machine's end. Its packets are forwarded; no other interface's because of it."""
    interface = plan.interface(seat.kind, seat.number)
    try:
        _switch(_HERE / f"ipv6/conf/{interface}/disable_ipv6", "1")
        _switch(_HERE / f"ipv4/conf/{interface}/send_redirects", "0")
        _switch(_HERE / f"ipv4/conf/{interface}/forwarding", "1", is_needed=True)
    except OSError as error:
        raise NetworkFailed(f"{error.filename}: {error.strerror}") from error
    _run(
        ip,
        f"addr add {plan.gateway}/32 dev {interface}",
        f"link set {interface} up",
        f"route add {plan.address(seat.number)}/32 dev {interface} src {plan.gateway}",
    )


def _switch(path: Path, text: str, *, is_needed: bool = False) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        # A kernel without IPv6 has nothing to switch off.
        if is_needed or error.errno != errno.ENOENT:
            raise


def _run(ip: str, *lines: str) -> None:
    try:
        done = subprocess.run(
            [ip, "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=_SECS,
            check=False,
            env={},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkFailed(f"ip: {error}") from error
    if done.returncode:
        why = " ".join(done.stderr.split())[:300]
        raise AddressTaken(why) if "File exists" in why else NetworkFailed(f"ip: {why}")
