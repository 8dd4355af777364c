"""Users, and a view of the file system in which an unprivileged one can reach what it needs.

Started as root, everything but the spawner runs as a system user of its own. Interpreter, virtual
environment and data often lie below a home of mode 0700, where that user cannot go; opening the
home for everybody would be worse than the problem. So the supervisor makes a private mount
namespace, hides each closed folder under an empty one that may be passed, and puts the needed
folders back at their original paths: nothing has to be rewritten, the host's view does not change,
and the rest of the closed folder is out of our processes' reach.
"""

import ctypes
import logging
import os
import pwd
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_SET_NO_NEW_PRIVS = 38
_MAX_LINKS = 40
_TMPFS = "mode=0711,size=1m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The unix user that a process runs as and whose files it keeps."""

    name: str
    uid: int
    gid: int


class Unreachable(Exception):
    """A needed path cannot be made reachable; the text names it."""


def service_user(name: str) -> Owner | None:
    """Return the system user `name`, made now if it is not there; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return _look_up(name)
    except KeyError:
        pass
    argv = ["useradd", "--system", "--user-group", "--no-create-home"]
    argv += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "--", name]
    # Another server may be doing the same; what counts is whether the user is there afterwards.
    made = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    try:
        owner = _look_up(name)
    except KeyError:
        raise Unreachable(f"cannot make the user {name!r}: {made.stderr.strip()}") from None
    if made.returncode == 0:
        logger.warning("made a system user", extra={"user": name, "uid": owner.uid})
    return owner


def drop(owner: Owner) -> None:
    """Become `owner` for good: no other groups, no way back, nothing gained by set-uid programs."""
    os.setgroups([])
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getresuid() != (owner.uid,) * 3 or os.getresgid() != (owner.gid,) * 3:
        raise PermissionError("still privileged after dropping")


def make_folder(path: Path, owner: Owner | None = None, mode: int = 0o700) -> Path:
    """Make `path` with exactly this mode and owner; a link in its place is refused."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if owner and os.geteuid() == 0:
            os.fchown(fd, owner.uid, owner.gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    return path


def write_private(path: Path, content: bytes, owner: Owner | None = None) -> None:
    """Put `content` at `path`, 0600, whole or not at all, also over a power cut."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            if owner and os.geteuid() == 0:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new names in the folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def program_paths() -> tuple[Path, ...]:
    """Return what `python -m ignite` needs: interpreter, environment and this package's source."""
    source = Path(__file__).parents[1]
    return tuple(
        Path(path)
        for path in dict.fromkeys((sys.executable, sys.prefix, sys.base_prefix, str(source)))
    )


def make_reachable(paths: Iterable[Path], owner: Owner) -> tuple[Path, ...]:
    """Let `owner` pass to `paths`; return the folders that are hidden from now on.

    Moves this process (the calling thread; call it from the main one, before there are others) into
    a private mount namespace, which children inherit. Does nothing where nothing is in the way, so
    calling it again is free. Raises Unreachable when a path still cannot be reached.
    """
    wanted = tuple(paths)
    needed = _needed(wanted, owner)
    closed = sorted({top for path in needed if (top := _first_closed(path, owner))})
    if closed:
        cwd = Path.cwd()
        _unshare()
        for top in closed:
            _hide(top, [path for path in needed if path.is_relative_to(top)])
        try:
            os.chdir(cwd)
        except OSError:
            os.chdir("/")
        logger.info(
            "closed folders are hidden from the server",
            extra={"folders": [str(top) for top in closed]},
        )
    _verify(wanted, owner)
    return tuple(closed)


def _look_up(name: str) -> Owner:
    entry = pwd.getpwnam(name)
    return Owner(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def _needed(paths: Iterable[Path], owner: Owner) -> list[Path]:
    """Return links to recreate and real paths to bind, none of them below another bound one."""
    found: set[Path] = set()
    for path in paths:
        links, real = _follow(path.absolute())
        found.update(links)
        found.update(_open_parts(real, owner))
    bound = {path for path in found if not path.is_symlink()}
    return sorted(path for path in found if not any(up in bound for up in path.parents))


def _follow(path: Path) -> tuple[list[Path], Path]:
    """Return the symbolic links passed on the way, and where the path ends."""
    links: list[Path] = []
    rest = list(path.parts[1:])
    at = Path("/")
    while rest:
        part = rest.pop(0)
        at = at.parent if part == ".." else at / part
        if not at.is_symlink():
            continue
        links.append(at)
        if len(links) > _MAX_LINKS:
            raise Unreachable(f"too many links on the way to {path}")
        target = at.readlink()
        rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
        at = Path("/") if target.is_absolute() else at.parent
    if not at.exists():
        raise Unreachable(f"{path} does not exist")
    return links, at


def _open_parts(path: Path, owner: Owner) -> list[Path]:
    """Return the path, or what is in it where it is itself closed."""
    if path.is_dir() and not _may_pass(path, owner):
        return sorted(path.iterdir())
    return [path]


def _first_closed(path: Path, owner: Owner) -> Path | None:
    """Return the highest folder above `path` that `owner` cannot pass."""
    return next((up for up in reversed(path.parents) if not _may_pass(up, owner)), None)


def _may_pass(folder: Path, owner: Owner) -> bool:
    about = folder.stat()
    if about.st_uid == owner.uid:
        return bool(about.st_mode & stat.S_IXUSR)
    if about.st_gid == owner.gid:
        return bool(about.st_mode & stat.S_IXGRP)
    return bool(about.st_mode & stat.S_IXOTH)


def _hide(top: Path, needed: Sequence[Path]) -> None:
    """Cover `top` with an empty folder that holds only `needed`, at their places."""
    links = {path: path.readlink() for path in needed if path.is_symlink()}
    # An open path still leads to the folder after it is covered.
    held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in needed if path not in links}
    umask = os.umask(0)
    try:
        _mount("tmpfs", str(top), "tmpfs", _MS_NOSUID | _MS_NODEV, _TMPFS)
        for path, target in links.items():
            _make_way(top, path.parent)
            path.symlink_to(target)
        for path, fd in held.items():
            _make_way(top, path.parent)
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                path.mkdir(mode=0o711)
            else:
                path.touch(mode=0o644)
            _mount(f"/proc/self/fd/{fd}", str(path), None, _MS_BIND | _MS_REC, None)
        # What is written here would be lost without a word; an error is better.
        flags = _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        _mount("tmpfs", str(top), "tmpfs", flags, _TMPFS)
    finally:
        os.umask(umask)
        for fd in held.values():
            os.close(fd)


def _make_way(top: Path, folder: Path) -> None:
    at = top
    for part in folder.relative_to(top).parts:
        at /= part
        at.mkdir(mode=0o711, exist_ok=True)


def _verify(paths: Sequence[Path], owner: Owner) -> None:
    """Ask as `owner`, in a process of its own, whether every path can be reached."""
    if os.geteuid() != 0:
        return
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = b"?"
        try:
            os.close(reader)
            drop(owner)
            answer = b"".join(os.fsencode(path) + b"\0" for path in paths if not _reaches(path))
        finally:
            os.write(writer, answer[:4096])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lost = pipe.read()
    os.waitpid(pid, 0)
    if lost:
        named = ", ".join(os.fsdecode(part) for part in lost.split(b"\0") if part)
        raise Unreachable(f"the user {owner.name!r} cannot reach {named}")


def _reaches(path: Path) -> bool:
    return os.access(path, os.R_OK) or os.access(path, os.X_OK)


def _unshare() -> None:
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        raise Unreachable(f"no private mount namespace: {os.strerror(ctypes.get_errno())}")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    result = _LIBC.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    if result != 0:
        number = ctypes.get_errno()
        raise Unreachable(f"cannot mount {target}: {os.strerror(number)}")
