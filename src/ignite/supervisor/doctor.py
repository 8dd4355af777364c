"""`ignite doctor`: every part that the server needs of a machine, and how to fix what is wrong."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ignite.layout import DATA_FORMAT, Layout
from ignite.settings import Settings, SettingsError
from ignite.supervisor.addresses import resolve
from ignite.supervisor.datadir import DataDirError, locked

Say = Callable[[str], None]

_LEAST_DISK = 2 * 1024**3
_LEAST_MEMORY = 2 * 1024**3
_INSTALL = "run `make setup`, or pip install 'ignite[server]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part looked at. `is_needed` False: the server starts without it, with less."""

    part: str
    is_ok: bool
    detail: str
    fix: str = ""
    is_needed: bool = True


Part = Callable[[], Iterator[Finding]]


def examine(settings: Settings, say: Say, parts: "list[Part]") -> bool:
    """Say what is found, part by part; returns whether the server can start."""
    layout = Layout(settings.server.data_dir.expanduser().absolute())
    findings = [*_machine(), *_data(layout), *_listeners(settings, layout)]
    for part in parts:
        findings += part()
    for finding in findings:
        mark = "ok  " if finding.is_ok else ("FAIL" if finding.is_needed else "weak")
        say(f"{mark}  {finding.part:<18} {finding.detail}")
        if not finding.is_ok and finding.fix:
            say(f"{'':<24} fix: {finding.fix}")
    return all(finding.is_ok or not finding.is_needed for finding in findings)


def program(part: str, find: Callable[[], str], *arguments: str) -> Iterator[Finding]:
    """Look at a binary of ours: it is there and answers its version."""
    try:
        path = find()
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, ImportError, RuntimeError, LookupError) as error:
        yield Finding(
            part=part, is_ok=False, detail=f"{type(error).__name__}: {error}", fix=_INSTALL
        )
        return
    lines = (done.stdout or done.stderr).strip().splitlines() or [""]
    yield Finding(part=part, is_ok=True, detail=lines[0].strip()[:100])


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding(
        part="python",
        is_ok=sys.version_info >= (3, 11),
        detail=version,
        fix="install Python 3.11 or newer",
    )
    yield Finding(
        part="system",
        is_ok=sys.platform == "linux",
        detail=f"{platform.system()} {platform.release()} {platform.machine()}",
        fix="the embedded server runs on Linux only",
    )
    yield Finding(
        part="privileges",
        is_ok=os.geteuid() == 0,
        is_needed=False,
        detail="root: replicas get users and limits of their own"
        if os.geteuid() == 0
        else "not root: replicas share your user, and have no limits",
        fix="start the server as root (it drops to an own user)",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(
        part="memory",
        is_ok=memory >= _LEAST_MEMORY,
        is_needed=False,
        detail=f"{memory / 1024**3:.1f} GiB",
        fix="give the machine at least 2 GiB",
    )


def _data(layout: Layout) -> Iterator[Finding]:
    parent = _existing(layout.data)
    free = shutil.disk_usage(parent).free
    yield Finding(
        part="disk",
        is_ok=free >= _LEAST_DISK,
        is_needed=False,
        detail=f"{free / 1024**3:.1f} GiB free at {parent}",
        fix="free at least 2 GiB, or choose another --data-dir",
    )
    yield Finding(
        part="data directory",
        is_ok=os.access(parent, os.W_OK),
        detail=str(layout.data),
        fix=f"make {parent} writable, or choose another --data-dir",
    )
    try:
        found = layout.format_file.read_text().strip()
    except OSError:
        return
    yield Finding(
        part="data format",
        is_ok=found.isdigit() and int(found) <= DATA_FORMAT,
        detail=f"{found} (this release knows up to {DATA_FORMAT})",
        fix="run the newer release",
    )


def _listeners(settings: Settings, layout: Layout) -> Iterator[Finding]:
    if layout.lock_file.exists():
        try:
            with locked(layout):
                pass
        except DataDirError as error:
            yield Finding(part="server", is_ok=True, detail=str(error))
            return
    try:
        addresses = resolve(settings.server)
    except SettingsError as error:
        yield Finding(
            part="listeners",
            is_ok=False,
            detail=str(error),
            fix="stop what listens there, or set another address (port 0 takes a free one)",
        )
        return
    yield Finding(
        part="listeners",
        is_ok=True,
        detail=f"free: gRPC {addresses.api}, admin {addresses.admin}, HTTP {addresses.http}",
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
