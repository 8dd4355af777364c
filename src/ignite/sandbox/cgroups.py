"""Limits of memory, CPU and processes: one control group a sandbox, on version 1, 2 or both.

Machines that mix the versions are common, so each of the three controllers is looked for by itself.
Groups lie at `ignite/<installation>/<name>` below each hierarchy's root, where the next start finds
what a killed one left behind.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "cpu", "pids")

_PERIOD_USECS = 100_000
_PARENT = "ignite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Where one controller's groups are made."""

    version: int
    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerState:
    """What one controller gives; `why` tells what stands against it."""

    name: str
    hierarchy: Hierarchy | None
    why: str = ""


def find_controllers(
    mountinfo: str | None = None, *, root: Path = Path("/")
) -> Mapping[str, Hierarchy]:
    """Return the mounted hierarchy of each controller we use, as far as there is one."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        place = root / before.split()[4].lstrip("/")
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup":
            for name in set(CONTROLLERS) & set(options.split(",")):
                found[name] = Hierarchy(version=1, root=place)
        elif kind == "cgroup2":
            for name in set(CONTROLLERS) & set(_words(place / "cgroup.controllers")):
                found.setdefault(name, Hierarchy(version=2, root=place))
    return found


class ControlGroups:
    """Makes, finds and removes the groups of one installation."""

    def __init__(self, tag: str, hierarchies: Mapping[str, Hierarchy] | None = None) -> None:
        self._tag = tag
        self._hierarchies = dict(find_controllers() if hierarchies is None else hierarchies)
        self._states = {name: self._prepare(name) for name in CONTROLLERS}

    @property
    def states(self) -> tuple[ControllerState, ...]:
        """What each controller gives on this machine."""
        return tuple(self._states.values())

    def create(self, name: str) -> "ControlGroup":
        """Make an empty group in every usable hierarchy."""
        folders = self._folders(name)
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        return ControlGroup(name, folders, self._versions())

    def find(self) -> "list[ControlGroup]":
        """Return the groups that exist, also those of an earlier process."""
        names = {
            entry.name
            for base in self._bases().values()
            if base.is_dir()
            for entry in base.iterdir()
            if entry.is_dir()
        }
        versions = self._versions()
        return [ControlGroup(name, self._folders(name), versions) for name in sorted(names)]

    def close(self) -> None:
        """Remove the installation's own folders where they are empty."""
        for base in self._bases().values():
            with contextlib.suppress(OSError):
                base.rmdir()

    def _prepare(self, name: str) -> ControllerState:
        hierarchy = self._hierarchies.get(name)
        if hierarchy is None:
            return ControllerState(name=name, hierarchy=None, why="not mounted")
        base = hierarchy.root / _PARENT / self._tag
        try:
            if hierarchy.version == 2:
                for folder in (hierarchy.root, hierarchy.root / _PARENT, base):
                    folder.mkdir(exist_ok=True)
                    _write(folder / "cgroup.subtree_control", f"+{name}")
            else:
                base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"{error.filename or base}: {error.strerror}"
            return ControllerState(name=name, hierarchy=None, why=why)
        return ControllerState(name=name, hierarchy=hierarchy)

    def _bases(self) -> dict[str, Path]:
        return {
            state.name: state.hierarchy.root / _PARENT / self._tag
            for state in self._states.values()
            if state.hierarchy
        }

    def _folders(self, name: str) -> dict[str, Path]:
        return {controller: base / name for controller, base in self._bases().items()}

    def _versions(self) -> dict[str, int]:
        return {s.name: s.hierarchy.version for s in self._states.values() if s.hierarchy}


class ControlGroup:
    """The group of one sandbox. A limit whose controller is missing is silently not set; whether
    that may be is decided before, by the report."""

    def __init__(self, name: str, folders: Mapping[str, Path], versions: Mapping[str, int]) -> None:
        self.name = name
        self._folders = folders
        self._versions = versions

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders a process has to join, each once."""
        return tuple(dict.fromkeys(self._folders.values()))

    def open_entrances(self) -> list[int]:
        """Open the files by which a process of one thread joins, by writing 0.

        On version 1 that is not the usual file: moving one's only thread takes no lock that all
        processes of the machine share.
        """
        made: list[int] = []
        try:
            for folder in self.folders:
                thread = folder / "tasks"
                file = thread if thread.exists() else folder / "cgroup.procs"
                made.append(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for descriptor in made:
                os.close(descriptor)
            raise
        return made

    def limit_memory(self, limit_bytes: int) -> None:
        """Bound memory, with no swap beyond it where the kernel counts swap."""
        folder = self._folders.get("memory")
        if folder is None:
            return
        if self._versions["memory"] == 2:
            _write(folder / "memory.max", str(limit_bytes))
            _write_if_there(folder / "memory.swap.max", "0")
            _write_if_there(folder / "memory.oom.group", "1")
        else:
            _write(folder / "memory.limit_in_bytes", str(limit_bytes))
            _write_if_there(folder / "memory.memsw.limit_in_bytes", str(limit_bytes))

    def limit_cpu(self, millicores: int) -> None:
        """Bound CPU time."""
        folder = self._folders.get("cpu")
        if folder is None:
            return
        # The kernel takes no quota below one millisecond.
        quota = max(1000, millicores * _PERIOD_USECS // 1000)
        if self._versions["cpu"] == 2:
            _write(folder / "cpu.max", f"{quota} {_PERIOD_USECS}")
        else:
            _write(folder / "cpu.cfs_period_us", str(_PERIOD_USECS))
            _write(folder / "cpu.cfs_quota_us", str(quota))

    def limit_pids(self, count: int) -> None:
        """Bound processes and threads."""
        if folder := self._folders.get("pids"):
            _write(folder / "pids.max", str(count))

    def oom_kills(self) -> int:
        """Return how often the kernel killed a process of the group for want of memory."""
        folder = self._folders.get("memory")
        if folder is None:
            return 0
        file = "memory.events" if self._versions["memory"] == 2 else "memory.oom_control"
        words = _words(folder / file)
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        return int(pairs.get("oom_kill", "0"))

    def processes(self) -> tuple[int, ...]:
        """Return the pids in the group."""
        found: dict[int, None] = {}
        for folder in self.folders:
            found.update(dict.fromkeys(int(pid) for pid in _words(folder / "cgroup.procs")))
        return tuple(found)

    def kill(self) -> None:
        """Kill everything in the group, also what forks meanwhile. Blocks for two seconds at
        most."""
        deadline = time.monotonic() + 2
        while (pids := self.processes()) and time.monotonic() < deadline:
            for folder in self.folders:
                _write_if_there(folder / "cgroup.kill", "1")
            _kill_each(pids)
            time.sleep(0.002)

    def remove(self) -> bool:
        """Kill what is left and remove the group; False if the kernel still holds it."""
        self.kill()
        deadline = time.monotonic() + 2
        while not (gone := all(_gone(folder) for folder in self.folders)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
        return gone


def _kill_each(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _gone(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _write(path: Path, value: str) -> None:
    path.write_text(value)


def _write_if_there(path: Path, value: str) -> None:
    if path.exists():
        path.write_text(value)
