"""The data directory: one server at a time, and never one of a newer release."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ignite.layout import DATA_FORMAT, Layout
from ignite.privileges import Owner, make_folder, write_private


class DataDirError(Exception):
    """The data directory cannot be used; one line for the operator."""


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the directory for this process; raises DataDirError when another server has it."""
    try:
        layout.data.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirError(f"cannot use {layout.data}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            raise DataDirError(f"another server (pid {holder}) runs on {layout.data}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def check_format(layout: Layout) -> None:
    """Refuse a directory of a newer release; mark a new one."""
    try:
        text = layout.format_file.read_text().strip()
    except FileNotFoundError:
        write_private(layout.format_file, f"{DATA_FORMAT}\n".encode())
        return
    if not text.isdigit() or int(text) > DATA_FORMAT:
        raise DataDirError(
            f"{layout.data} has format {text}, this release knows up to {DATA_FORMAT}: "
            "run the newer release"
        )


def make_folders(layout: Layout, owner: Owner | None) -> None:
    """Make every folder with its owner and mode.

    The data directory itself may be passed through (0711) but not listed: the folders below are the
    service user's own, but for those of the spawner.
    """
    layout.data.chmod(0o711)
    for folder in (
        layout.logs,
        layout.keys,
        layout.pki,
        layout.blobs,
        layout.builds,
        layout.gateway,
    ):
        make_folder(folder, owner, 0o700)
    # Passed through too; who may list it may also lock it, and keep compiles waiting.
    make_folder(layout.artifacts, owner, 0o711)
    make_folder(layout.replicas, None, 0o711)
    if layout.run.parent == Path("/run/ignite"):
        make_folder(layout.run.parent, None, 0o711)
    make_folder(layout.run, owner, 0o711)
    make_folder(layout.postgres_socket_dir, owner, 0o700)
    make_folder(layout.replica_sockets, None, 0o711)
