"""What processes cost, from /proc: CPU time and memory."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")

Roles = Mapping[str, tuple[int, ...]]
"""Name of a part → its processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident and proportional size; the latter shares out pages that several processes have."""

    rss_kb: int
    pss_kb: int


def cpu_us(pid: int) -> int:
    """Return user and system time of a process; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    # Ticks count threads that have ended too, the scheduler's numbers are finer: the larger holds.
    return max((int(fields[11]) + int(fields[12])) * TICK_US, _scheduled_us(pid))


def _scheduled_us(pid: int) -> int:
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            total += int((thread / "schedstat").read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total // 1000


def cpu_of(roles: Roles) -> dict[str, int]:
    """Return the CPU time that each part has taken so far."""
    return {name: sum(cpu_us(pid) for pid in pids) for name, pids in roles.items()}


def memory_of(pids: Iterable[int]) -> Memory:
    """Return the memory of some processes together."""
    rss = pss = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0])
            elif name == "Pss":
                pss += int(value.split()[0])
    return Memory(rss_kb=rss, pss_kb=pss)


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def tree_of(pid: int) -> list[int]:
    """Return a process and everything below it."""
    found = [pid]
    for child in children_of(pid):
        found += tree_of(child)
    return found


def command_of(pid: int) -> str:
    """Return the command line, "" when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def server_roles(supervisor: int) -> dict[str, tuple[int, ...]]:
    """Return the parts of a running server by name. Replicas are all counted as `replica`."""
    roles: dict[str, tuple[int, ...]] = {"supervisor": (supervisor,)}
    for child in children_of(supervisor):
        command = command_of(child)
        name = role_of(command)
        if name == "spawner":
            below = [pid for pid in tree_of(child) if pid != child]
            roles["spawner"] = (child,)
            roles["replica"] = tuple(pid for pid in below if _is_replica(pid, child))
            roles["sandbox"] = tuple(pid for pid in below if pid not in roles["replica"])
        else:
            roles[name] = tuple(tree_of(child))
    return roles


def role_of(command: str) -> str:
    """Return the part's name that a command line stands for."""
    words = command.split()
    if "ignite" in words:
        return words[words.index("ignite") + 1]
    program = Path(words[0]).name if words else ""
    return {"bao": "openbao"}.get(program, program)


def _is_replica(pid: int, spawner: int) -> bool:
    """Tell whether a process runs an app: under a user of its own, or else the innermost one."""
    program = Path(command_of(pid).partition(" ")[0]).name
    if program in ("", "sh", "bwrap", "setpriv"):
        return False
    users = _uid(pid), _uid(spawner)
    return users[0] != users[1] if users[1] == 0 else not children_of(pid)


def _uid(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return -1


def load_average() -> float:
    """Return the load of the last minute."""
    return os.getloadavg()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """CPU that parts took over a time."""

    cpu_us: Mapping[str, int]
    secs: float


class Meter:
    """Measures the CPU of parts from its making to `stop`."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._before = cpu_of(roles)
        self._began = time.monotonic()

    def stop(self) -> Spent:
        """Return what was taken."""
        secs = time.monotonic() - self._began
        after = cpu_of(self._roles)
        return Spent(
            cpu_us={name: max(0, after[name] - before) for name, before in self._before.items()},
            secs=secs,
        )
