"""How well this machine can isolate, layer by layer, and what to do about what is missing.

The same value answers `ignite doctor`, the administrators' RPC and the spawner's own refusal, so
that nobody is told of a power that is not used.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from ignite.sandbox.bubblewrap import Tools
from ignite.sandbox.cgroups import ControlGroups, ControllerState
from ignite.sandbox.network.egress import Egress
from ignite.sandbox.seccomp import SeccompUnavailable, filter_program
from ignite.settings import RuntimeSettings


class Level(StrEnum):
    """What stands between a tenant and the machine, as one word."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. `detail` says how it is reached or why not, `fix` what to do then.

    Without a vital one no code runs, whatever the level that is required.
    """

    name: str
    is_ok: bool
    detail: str
    fix: str = ""
    is_vital: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReport:
    """What the sandbox of this machine is made of."""

    layers: tuple[Layer, ...]
    tools: Tools
    is_required: bool

    @property
    def level(self) -> Level:
        """Return FULL with every layer, NONE without bubblewrap, PARTIAL between."""
        if not self._is_ok("bubblewrap"):
            return Level.NONE
        return Level.FULL if not self.missing else Level.PARTIAL

    @property
    def missing(self) -> tuple[Layer, ...]:
        """Return the layers that are not there."""
        return tuple(layer for layer in self.layers if not layer.is_ok)

    @property
    def has_seccomp(self) -> bool:
        """Tell whether the system call filter can be made."""
        return self._is_ok("seccomp")

    @property
    def refusal(self) -> str:
        """Return why no code may run here, "" where it may."""
        if self.level is Level.NONE:
            return self._words(self.missing[:1])
        if self.is_required and self.missing:
            return self._words(self.missing)
        return self._words([layer for layer in self.missing if layer.is_vital])

    def _is_ok(self, name: str) -> bool:
        return any(layer.name == name and layer.is_ok for layer in self.layers)

    @staticmethod
    def _words(layers: Sequence[Layer]) -> str:
        return "; ".join(f"{layer.name}: {layer.detail}" for layer in layers)


def report(
    settings: RuntimeSettings, egress: Egress, groups: ControlGroups | None = None
) -> SandboxReport:
    """Look at the machine. `groups` are the installation's; without them those of a trial tag."""
    is_root = os.geteuid() == 0
    bwrap = shutil.which("bwrap", path=_PATH) or ""
    setpriv = shutil.which("setpriv", path=_PATH) or ""
    states = groups.states if groups else _try_groups()
    layers = (
        _bubblewrap(bwrap, setpriv, is_root=is_root),
        _uids(is_root=is_root),
        *([] if is_root else [_user_namespaces(bwrap)]),
        _seccomp(),
        *(_controller(state, is_root=is_root) for state in states),
        *network_layers(egress),
    )
    nsenter = shutil.which("nsenter", path=_PATH) or ""
    tools = Tools(bwrap=bwrap, setpriv=setpriv, nsenter=nsenter, is_root=is_root)
    return SandboxReport(layers=layers, tools=tools, is_required=settings.require_isolation)


def _try_groups() -> tuple[ControllerState, ...]:
    groups = ControlGroups("doctor")
    groups.close()
    return groups.states


_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_INSTALL = "install bubblewrap 0.8 or newer (Debian, Ubuntu: apt-get install bubblewrap)"


def _bubblewrap(bwrap: str, setpriv: str, *, is_root: bool) -> Layer:
    name = "bubblewrap"
    if not bwrap:
        return Layer(name=name, is_ok=False, detail="bwrap is not installed", fix=_INSTALL)
    if is_root and not setpriv:
        fix = "install util-linux"
        return Layer(name=name, is_ok=False, detail="setpriv is not installed", fix=fix)
    version = _output(bwrap, "--version").removeprefix("bubblewrap").strip()
    if "--ro-bind-fd" not in _output(bwrap, "--help"):
        why = f"version {version or 'unknown'} cannot bind by descriptor"
        return Layer(name=name, is_ok=False, detail=why, fix=_INSTALL)
    return Layer(name=name, is_ok=True, detail=f"version {version}")


def _uids(*, is_root: bool) -> Layer:
    if is_root:
        return Layer(name="uids", is_ok=True, detail="each replica has a uid of its own")
    return Layer(
        name="uids",
        is_ok=False,
        detail="not started as root: replicas share the server's uid",
        fix="start the server as root; all but the spawner then drops to an own user",
    )


def _user_namespaces(bwrap: str) -> Layer:
    name = "user namespaces"
    trial = ("--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true")
    if bwrap and _succeeds(bwrap, *trial):
        return Layer(name=name, is_ok=True, detail="usable without root")
    return Layer(
        name=name,
        is_ok=False,
        detail="the kernel does not let this user make them",
        fix="start the server as root, or allow unprivileged user namespaces",
    )


def _seccomp() -> Layer:
    try:
        program = filter_program()
    except SeccompUnavailable as error:
        fix = "install libseccomp (Debian, Ubuntu: apt-get install libseccomp2)"
        return Layer(name="seccomp", is_ok=False, detail=str(error), fix=fix)
    return Layer(name="seccomp", is_ok=True, detail=f"a filter of {len(program) // 8} steps")


def _controller(state: ControllerState, *, is_root: bool) -> Layer:
    name = f"{state.name} limit"
    if state.hierarchy:
        return Layer(name=name, is_ok=True, detail=f"cgroup v{state.hierarchy.version}")
    fix = (
        f"mount the {state.name} controller writable; in a container: a private, writable cgroup"
        if is_root
        else "start the server as root"
    )
    return Layer(name=name, is_ok=False, detail=state.why, fix=fix)


_FILTERED = "the internet from an address of its own; not this machine, not private networks"
_NEEDED = "start as root, with nftables and iproute2 installed"


def network_layers(egress: Egress) -> tuple[Layer, Layer]:
    """Return the layers of app code's network and of compiles'."""
    return _network(egress), _compile_network(egress)


def _network(egress: Egress) -> Layer:
    name = "network"
    match egress.replicas:
        case "none":
            return Layer(name=name, is_ok=True, detail="loopback of its own and nothing else")
        case "filtered" if egress.why:
            fix = f"{_NEEDED}; or set IGNITE__RUNTIME__EGRESS=none"
            return Layer(name=name, is_ok=False, detail=egress.why, fix=fix, is_vital=True)
        case "filtered":
            return Layer(name=name, is_ok=True, detail=_FILTERED)
        case "host":
            return Layer(
                name=name,
                is_ok=False,
                detail="app code has the machine's network, its loopback services included",
                fix="set IGNITE__RUNTIME__EGRESS=filtered, or none",
            )
        case unknown:
            assert_never(unknown)


def _compile_network(egress: Egress) -> Layer:
    name = "compile network"
    if egress.builds == "filtered" and not egress.why:
        return Layer(name=name, is_ok=True, detail=_FILTERED)
    if egress.builds == "filtered":
        fix = f"{_NEEDED}; or set IGNITE__BUILD__EGRESS=host"
        return Layer(name=name, is_ok=False, detail=egress.why, fix=fix, is_vital=True)
    why = f" ({egress.why})" if egress.why else ""
    return Layer(
        name=name,
        is_ok=False,
        detail=f"compiles have the machine's network, its loopback services included{why}",
        fix=_NEEDED if why else "set IGNITE__BUILD__EGRESS=filtered",
    )


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if "--help" in command else _short(done.stdout)


def _short(text: str) -> str:
    found = re.search(r"\d[\w.+-]{0,30}", text)
    return found.group() if found else ""


def _succeeds(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, env={})
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
