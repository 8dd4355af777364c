"""The command line of one sandbox, as a pure function of what is wanted.

bubblewrap builds the namespaces and the file tree. Started as root it stays root until `setpriv`
inside gives up uid, groups and every capability; so the tree may be bound from folders that nobody
else can read, and no user namespace is needed. Arguments go through a file descriptor, since a
command line can be read by every user of the machine and holds an app's environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HOME = "/tmp/ignite"  # noqa: S108 - inside the sandbox, where /tmp is its own
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
READY_VARIABLE = "IGNITE_READY_FD"
SHARED_MEMORY_BYTES = 64 * 1024 * 1024

_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One piece of the machine that is visible inside.

    `source` is a path that only root can change, or an open descriptor for a folder that others may
    rename under our feet.
    """

    source: Path | int
    target: str
    is_writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What to run in what. Knows no replica and no build."""

    command: tuple[str, ...]
    uid: int
    mounts: tuple[Mount, ...]
    etc: Path
    passwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    tmp_bytes: int = 64 * 1024 * 1024
    has_network: bool = False
    # Where the network namespace to be in lies, where it is neither a new one nor the machine's.
    network: str = ""
    # The write end of a pipe, by which the command may say that it serves.
    notify: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSpec(SandboxSpec):
    """The tree of a fork server: the same as that of what it forks, with places for the rest.

    Its command keeps every capability and is in the pid namespace of the machine: it runs our code
    alone, and makes from itself what `SandboxSpec` asks for.
    """

    places: tuple[str, ...] = ()
    commands: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Programs on the machine. `is_root` tells whether uids can be given up inside."""

    bwrap: str = "/usr/bin/bwrap"
    setpriv: str = "/usr/bin/setpriv"
    shell: str = "/bin/sh"
    nsenter: str = "/usr/bin/nsenter"
    is_root: bool = True


def arguments(spec: SandboxSpec, tools: Tools, *, system: Path = Path("/")) -> list[str]:
    """Return bubblewrap's arguments up to the command."""
    made = [
        *_namespaces(spec, tools),
        *_system(system),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--perms", "1777", "--size", str(spec.tmp_bytes), "--tmpfs", "/tmp"),  # noqa: S108
        *("--perms", "0777" if tools.is_root else "0700", "--dir", HOME),
        *("--ro-bind", str(spec.etc), "/etc", "--ro-bind", str(spec.passwd), "/etc/passwd"),
    ]
    places = spec.places if isinstance(spec, TreeSpec) else ()
    for folder in (*_parents(spec.mounts, places), *places):
        made += ["--perms", "0755", "--dir", folder]
    for mount in spec.mounts:
        made += _mount(mount)
    made += ["--remount-ro", "/", "--chdir", spec.cwd, "--clearenv"]
    for name, value in environment(spec).items():
        made += ["--setenv", name, value]
    return made


def environment(spec: SandboxSpec) -> dict[str, str]:
    """Return the variables that the command finds."""
    made = {**_BASE_ENVIRONMENT, **spec.env}
    if spec.notify is not None:
        made[READY_VARIABLE] = str(spec.notify)
    return made


_BASE_ENVIRONMENT = {"HOME": HOME, "PATH": SEARCH_PATH, "LANG": "C.UTF-8", "TMPDIR": "/tmp"}  # noqa: S108


def command(spec: SandboxSpec, tools: Tools) -> list[str]:
    """Return what bubblewrap executes: the command, behind the loss of every privilege."""
    if not tools.is_root or isinstance(spec, TreeSpec):
        return list(spec.command)
    return [
        tools.setpriv,
        f"--reuid={spec.uid}",
        f"--regid={spec.uid}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        *spec.command,
    ]


def entrance(spec: SandboxSpec, tools: Tools) -> list[str]:
    """Return what brings bubblewrap into the network of its sandbox.

    By path, since every descriptor that we gave it would be open inside.
    """
    return [tools.nsenter, f"--net={spec.network}", "--"] if spec.network else []


def _namespaces(spec: SandboxSpec, tools: Tools) -> list[str]:
    made = ["--unshare-ipc", "--unshare-uts"]
    if not isinstance(spec, TreeSpec):
        made += ["--unshare-pid", "--unshare-cgroup-try"]
    if not spec.has_network and not spec.network:
        made.append("--unshare-net")
    if not tools.is_root:
        made += ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    return [*made, "--hostname", "ignite", "--die-with-parent", "--new-session"]


def _system(root: Path) -> list[str]:
    """Return /usr, and the folders beside it as the machine has them: links, or real on older
    ones."""
    made = ["--ro-bind", str(root / "usr"), "/usr"]
    for name in _SYSTEM_FOLDERS:
        path = root / name
        if path.is_symlink():
            made += ["--symlink", os.readlink(path).lstrip("/"), f"/{name}"]
        elif path.is_dir():
            made += ["--ro-bind", str(path), f"/{name}"]
    return made


def _parents(mounts: tuple[Mount, ...], places: tuple[str, ...] = ()) -> list[str]:
    """Return the folders that mount points need. Those that bubblewrap makes unasked are 0700."""
    targets = {*places, *(mount.target for mount in mounts)}
    found = {str(parent) for target in targets for parent in Path(target).parents if parent.name}
    return sorted(found - targets - {"/usr", "/etc", "/dev", "/proc"})


def _mount(mount: Mount) -> list[str]:
    kind = "--bind" if mount.is_writable else "--ro-bind"
    if isinstance(mount.source, int):
        kind += "-fd"
    return [kind, str(mount.source), mount.target]
