"""The folders of replicas on the machine, and what an earlier spawner left in them.

`replicas/<id>/` holds the log, the passwd file and `state.json`, in a tree that only root can
change. `run/r/<id>/` holds the socket: the only folder that a replica can write and others look
into. It can write there until it is ready, and no longer.

The run folder belongs to our unprivileged user, who could rename `r` and put a link in its place,
so `r` is opened once, checked, and used by descriptor from then on.
"""

import contextlib
import json
import logging
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ignite.layout import Layout
from ignite.sandbox.cgroups import ControlGroups
from ignite.sandbox.launcher import Identity, kill_if_same
from ignite.sandbox.tmpfs import is_mount_point, mount_tmpfs, unmount
from ignite.spawner.host import Owner
from ignite.spawner.removal import remove_tree

logger = logging.getLogger(__name__)

KEPT_LOGS = 200
MAX_SOCKET_PATH = 107
SOCKET_NAME = "s"

_STATE = "state.json"
_SOCKETS_BYTES = 64 * 1024 * 1024
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FoldersUnsafe(Exception):
    """A folder that must be ours is not; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFolders:
    """Where one replica's things lie. `socket` is the path on which others reach it."""

    id: str
    state: Path
    socket: Path

    def remember(self, identity: Identity) -> None:
        """Write down the process, for the next start."""
        text = json.dumps({"pid": identity.pid, "started_ticks": identity.started_ticks})
        fresh = self.state / f"{_STATE}.new"
        fresh.write_text(text)
        fresh.replace(self.state / _STATE)


class Folders:
    """Makes and removes the folders of replicas. `open` first."""

    def __init__(self, layout: Layout, owner: Owner, *, is_root: bool) -> None:
        self._layout = layout
        self._owner = owner
        self._is_root = is_root
        self._sockets = -1

    def open(self) -> None:
        """Make the folders above those of replicas and hold on to them; raises FoldersUnsafe."""
        self._layout.replicas.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layout.replica_sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_root:
            self._mount_sockets()
        for path, mode, gid in (
            (self._layout.replicas, 0o700, os.getegid()),
            (self._layout.replica_sockets, 0o750, self._owner.gid),
        ):
            descriptor = _open_own(path)
            os.fchmod(descriptor, mode)
            if self._is_root:
                os.fchown(descriptor, 0, gid)
            if path == self._layout.replica_sockets:
                self._sockets = descriptor
            else:
                os.close(descriptor)

    def close(self) -> None:
        """Let go. What is in the socket folders goes with them."""
        if self._sockets >= 0:
            os.close(self._sockets)
            self._sockets = -1
        if self._is_root and is_mount_point(self._layout.replica_sockets):
            unmount(self._layout.replica_sockets)

    def _mount_sockets(self) -> None:
        """Put the socket folders into memory, unless an earlier spawner did."""
        path = self._layout.replica_sockets
        if is_mount_point(path):
            return
        # Looked at before, since mounting follows links.
        os.close(_open_own(path))
        try:
            mount_tmpfs(path, size_bytes=_SOCKETS_BYTES)
        except OSError as error:
            logger.warning(
                "replicas can fill the disk of the run folder", extra={"why": error.strerror}
            )

    def of(self, replica_id: str) -> ReplicaFolders:
        """Return where the things of `replica_id` lie."""
        return ReplicaFolders(
            id=replica_id,
            state=self._layout.replicas / replica_id,
            socket=self._layout.replica_sockets / replica_id / SOCKET_NAME,
        )

    def make(self, folders: ReplicaFolders, uid: int) -> int:
        """Make both folders; return a descriptor of the socket's.

        Into that one come the replica, as owner, and the gateway, by its group.
        """
        folders.state.mkdir(mode=0o700)
        os.mkdir(folders.id, 0o700, dir_fd=self._sockets)
        made = os.open(folders.id, _FOLDER, dir_fd=self._sockets)
        if self._is_root:
            os.chown(folders.id, uid, self._owner.gid, dir_fd=self._sockets, follow_symlinks=False)
            # After the owner, and by itself: the process' umask took part of the mode away.
            os.chmod(f"/proc/self/fd/{made}", 0o770)  # noqa: S103 - owner and group only
        return made

    def seal(self, folders: ReplicaFolders) -> bool:
        """Take a replica the right to change its folder; tell whether its socket is one by then.

        Who connects comes by the path and may go where the replica may not: a link in the place of
        its socket would lead them to any other one. Without root the folder stays the replica's.
        """
        folder = os.open(folders.id, _FOLDER, dir_fd=self._sockets)
        try:
            if self._is_root:
                path = f"/proc/self/fd/{folder}"
                os.chown(path, 0, self._owner.gid)
                # The replica still looks into it; the folder above keeps everybody else out.
                os.chmod(path, 0o755)  # noqa: S103
            about = os.stat(SOCKET_NAME, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)
        return stat.S_ISSOCK(about.st_mode)

    def forget(self, folders: ReplicaFolders) -> None:
        """Remove everything but the log. What ran there must be dead."""
        remove_tree(folders.id, dir_fd=self._sockets)
        _remove_state(folders.state)

    def sweep(self, groups: ControlGroups) -> int:
        """End and remove what an earlier spawner started; return how many replicas and builds."""
        found: set[str] = set()
        for path in self._layout.replicas.glob(f"*/{_STATE}"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                kill_if_same(Identity(**json.loads(path.read_text())))
            found.add(path.parent.name)
        for group in groups.find():
            found.add(group.name)
            if not group.remove():
                logger.error("control group cannot be removed", extra={"group": group.name})
        for name in os.listdir(f"/proc/self/fd/{self._sockets}"):
            remove_tree(name, dir_fd=self._sockets)
        for path in self._layout.replicas.glob("[!.]*"):
            _remove_state(path)
        return len(found)

    def drop_old_logs(self, alive: "set[str]") -> None:
        """Keep the logs of the newest ended replicas only."""
        ended: list[tuple[float, Path]] = []
        for folder in self._layout.replicas.glob("[!.]*"):
            if folder.name not in alive:
                with contextlib.suppress(OSError):
                    ended.append((folder.stat().st_mtime, folder))
        for _, folder in sorted(ended, reverse=True)[KEPT_LOGS:]:
            shutil.rmtree(folder, ignore_errors=True)


def _open_own(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise FoldersUnsafe(f"{path} is not a folder of ours: {error.strerror}") from error
    about = os.fstat(descriptor)
    if about.st_uid != os.geteuid() or about.st_mode & stat.S_IWOTH:
        os.close(descriptor)
        raise FoldersUnsafe(f"{path} belongs to uid {about.st_uid}, not to the spawner")
    return descriptor


def _remove_state(folder: Path) -> None:
    for name in (_STATE, "passwd"):
        (folder / name).unlink(missing_ok=True)
