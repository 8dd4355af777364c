"""What the network changes on the machine: one table, and forwarding on the uplinks.

Both are taken back when the last installation ends; which one that is, the tables say. One that was
killed leaves its table, which rules over interfaces that went with it; since each holds a lock
while it lives, whoever comes or goes next on this machine removes what such a one left.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ignite.sandbox.network import rules
from ignite.sandbox.network.namespaces import NetworkFailed
from ignite.sandbox.network.plan import TABLE_PREFIX, Kind, Plan

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONF = Path("/proc/sys/net/ipv4/conf")
_SECS = 10
_DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTools:
    """Programs of the machine."""

    ip: str
    nft: str
    nsenter: str


def find_tools() -> NetworkTools:
    """Return the programs; raises NetworkFailed naming what is missing."""
    if os.geteuid() != 0:
        raise NetworkFailed("not started as root")
    found: dict[str, str] = {}
    for name, package in (("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")):
        path = shutil.which(name, path=_PATH)
        if path is None:
            raise NetworkFailed(f"{name} is not installed (package {package})")
        found[name] = path
    return NetworkTools(**found)


def uplinks(tools: NetworkTools) -> tuple[str, ...]:
    """Return the interfaces that default routes leave by."""
    text = _output(tools.ip, "-json", "-4", "route", "show", "default")
    return _devices(text)


def ways_to(tools: NetworkTools, networks: Iterable[IPv4Network]) -> tuple[str, ...]:
    """Return the interfaces by which these networks are reached, as far as they are."""
    found: list[str] = []
    for network in networks:
        with contextlib.suppress(NetworkFailed):
            text = _output(tools.ip, "-json", "-4", "route", "get", str(network[0]))
            found += _devices(text)
    return tuple(dict.fromkeys(name for name in found if name != "lo"))


def smallest_mtu(interfaces: tuple[str, ...]) -> int:
    """Return what fits through all of them, so that nothing has to be cut on the way."""
    found = [_DEFAULT_MTU]
    for name in interfaces:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(f"/sys/class/net/{name}/mtu").read_text()))
    return max(576, min(found))


class Machine:
    """Puts the table of one installation up and takes it down again.

    `run` is the folder that all installations of this machine share.
    """

    def __init__(self, plan: Plan, tools: NetworkTools, run: Path) -> None:
        self._plan = plan
        self._tools = tools
        self._run = run
        self._alive = -1
        self._names_port = 0
        self._exceptions: dict[Kind, set[IPv4Network]] = {}

    def check(self, guarded: tuple[str, ...] = ()) -> None:
        """Find out whether it could be put up, and change nothing; raises NetworkFailed."""
        _output(self._tools.nft, "--check", "--file", "-", given=self._table(1, guarded))
        place = _CONF / "default/forwarding"
        if not os.access(place, os.W_OK):
            raise NetworkFailed(f"{place} cannot be written")

    def put_up(self, *, names_port: int) -> tuple[str, ...]:
        """Forward on the uplinks and load the table; return the uplinks. Raises NetworkFailed."""
        self._names_port = names_port
        with self._locked():
            self._alive = self._try_lock(self._plan.table)
            if self._alive < 0:
                raise NetworkFailed("another process has the network of this installation")
            self._sweep()
            return self._load()

    def keep_up(self) -> bool:
        """Put up again what another program took away; True where it had. Raises NetworkFailed.

        Whoever loads rules of his own may well flush all there are, and default routes change.
        """
        ways = self._ways()
        forwarding = [(_CONF / name / "forwarding") for name in ways]
        with contextlib.suppress(OSError):
            is_on = all(place.read_text().strip() == "1" for place in forwarding)
            if is_on and self._plan.table in self._tables():
                return False
        with self._locked():
            self._load()
        return True

    def allow(self, kind: Kind, networks: Sequence[IPv4Network]) -> None:
        """Add exceptions while the table is up; raises NetworkFailed."""
        with self._locked():
            self._forward(ways_to(self._tools, networks))
            self.load(rules.allow(self._plan, kind, networks))
        self._exceptions.setdefault(kind, set()).update(networks)

    def exceptions(self, kind: Kind) -> tuple[IPv4Network, ...]:
        """Return what was added while the table was up."""
        return tuple(self._exceptions.get(kind, ()))

    def load(self, text: str) -> None:
        """Load rules, all of them or none; raises NetworkFailed."""
        _output(self._tools.nft, "--file", "-", given=text)

    def take_down(self) -> None:
        """Remove the table; the last one restores the uplinks. Raises NetworkFailed."""
        with self._locked():
            self.load(rules.no_table(self._plan.table))
            if self._alive >= 0:
                os.close(self._alive)
                self._alive = -1
            self._sweep()
            if self._tables():
                return
            for name in self._changed():
                with contextlib.suppress(OSError):
                    (_CONF / name / "forwarding").write_text("0")
            self._changes.unlink(missing_ok=True)

    @property
    def _changes(self) -> Path:
        return self._run / "forwarding.json"

    def _ways(self) -> tuple[str, ...]:
        allowed = [network for _, networks in self._plan.allowed for network in networks]
        allowed += [network for networks in self._exceptions.values() for network in networks]
        found = (*uplinks(self._tools), *ways_to(self._tools, allowed))
        return tuple(dict.fromkeys(found))

    def _load(self) -> tuple[str, ...]:
        ways = self._ways()
        text = self._table(self._names_port, self._forward(ways))
        for kind, networks in self._exceptions.items():
            text += rules.allow(self._plan, kind, networks)
        self.load(text)
        return ways

    def _table(self, names_port: int, guarded: tuple[str, ...]) -> str:
        return rules.table(self._plan, names_port=names_port, guarded=guarded)

    def _forward(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Let replies in; return the interfaces that did not forward before any of us came."""
        changed = self._changed()
        for name in names:
            place = _CONF / name / "forwarding"
            try:
                if place.read_text().strip() == "0":
                    changed = tuple(dict.fromkeys((*changed, name)))
                    # Written down first: whoever comes after a crash must know.
                    self._changes.write_text(json.dumps(changed))
                    place.write_text("1")
            except OSError as error:
                raise NetworkFailed(f"{place}: {error.strerror}") from error
        return changed

    def _changed(self) -> tuple[str, ...]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return tuple(str(name) for name in json.loads(self._changes.read_text()))
        return ()

    def _sweep(self) -> None:
        """Remove the tables of installations that live no more."""
        for table in self._tables():
            lock = self._try_lock(table) if table != self._plan.table else -1
            if lock >= 0:
                self.load(rules.no_table(table))
                os.close(lock)
        for file in self._run.glob(f"network-{TABLE_PREFIX}*"):
            lock = self._try_lock(file.name.removeprefix("network-"))
            if lock >= 0:
                file.unlink(missing_ok=True)
                os.close(lock)

    def _tables(self) -> tuple[str, ...]:
        text = _output(self._tools.nft, "list", "tables", "inet")
        names = (line.split()[-1] for line in text.splitlines() if line)
        return tuple(name for name in names if name.startswith(TABLE_PREFIX))

    def _try_lock(self, table: str) -> int:
        """Return the held lock of an installation's life; -1 where somebody else holds it."""
        path = self._run / f"network-{table}"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return -1
        return lock

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._run.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(self._run / "network.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _output(*command: str, given: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=_SECS,
            check=False,
            env={},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NetworkFailed(f"{command[0]}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout


def _devices(text: str) -> tuple[str, ...]:
    routes = json.loads(text or "[]")
    return tuple(dict.fromkeys(str(route["dev"]) for route in routes if "dev" in route))
