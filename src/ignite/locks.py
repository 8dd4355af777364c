"""A lock on a folder that any number of processes share: `flock` on the folder itself.

Who puts something there holds it shared, who takes something away holds it alone. It ends with its
holder, also by `kill -9`, and leaves no file.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRY_SECS = 0.005
_SHARED_WAIT_SECS = 10.0


class FolderBusy(OSError):
    """The folder was in use for as long as we cared to wait."""


class FolderLock:
    """Blocks its thread, so hold it for some system calls and no longer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others; raises FolderBusy, or FileNotFoundError without the folder.

        Who holds it alone does so for some system calls.
        """
        with self._held(fcntl.LOCK_SH, _SHARED_WAIT_SECS):
            yield

    @contextmanager
    def alone(self, *, wait_secs: float = 1.0) -> Iterator[None]:
        """Hold it alone; raises FolderBusy, or FileNotFoundError without the folder."""
        with self._held(fcntl.LOCK_EX, wait_secs):
            yield

    @contextmanager
    def _held(self, kind: int, wait_secs: float) -> Iterator[None]:
        ends = time.monotonic() + wait_secs
        with self._open() as descriptor:
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Tried and not waited for: holders that overlap would never let us in.
                    if time.monotonic() > ends:
                        raise FolderBusy(str(self._folder)) from None
                    time.sleep(_TRY_SECS)
                else:
                    break
            yield

    @contextmanager
    def _open(self) -> Iterator[int]:
        # A description of its own for each holder: threads of one process exclude each other too.
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def stamp(path: Path) -> None:
    """Give a file or folder a time that it has never had."""
    # The kernel's own time of a file moves in steps of some milliseconds; two could be the same.
    moment = time.time_ns()
    os.utime(path, ns=(moment, moment))
