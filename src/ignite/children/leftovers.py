"""Ending what an earlier server left running in a data directory.

A process is ours when its working directory is the very folder (same device and inode, whatever
path it is seen under) and its program has the right name. That holds in other mount namespaces too
and cannot be fooled by a process number that was given to somebody else.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_GONE_TIMEOUT_SECS = 10.0


async def kill_processes_in(folder: Path, *, program: str) -> list[int]:
    """Kill every process of `program` that works in `folder`; return when they are gone.

    Raises TimeoutError when one stays.
    """
    killed: set[int] = set()
    async with asyncio.timeout(_GONE_TIMEOUT_SECS):
        while found := list(_processes_in(folder, program)):
            for pid, pidfd in found:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
                killed.add(pid)
            await asyncio.sleep(0.01)
    return sorted(killed)


def _processes_in(folder: Path, program: str) -> Iterator[tuple[int, int]]:
    """Yield (pid, pidfd). The pidfd is taken first, so that a match is of that very process."""
    wanted = folder.stat()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            pidfd = os.pidfd_open(int(entry))
        except OSError:
            continue
        if _matches(Path("/proc", entry), wanted, program):
            yield int(entry), pidfd
        else:
            os.close(pidfd)


def _matches(process: Path, wanted: os.stat_result, program: str) -> bool:
    try:
        name = os.readlink(process / "exe").rpartition("/")[2].removesuffix(" (deleted)")
        return name == program and os.path.samestat(wanted, os.stat(process / "cwd"))
    except OSError:
        return False
