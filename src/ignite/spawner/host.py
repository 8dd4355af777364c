"""What every sandbox of this machine shares: its /etc, the runtime's files, interpreters,
identities.

Made afresh at each start in folders that only root can write, so that neither a tenant nor our own
unprivileged roles can change what a sandbox is made of.
"""

import logging
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from ipaddress import IPv4Address
from pathlib import Path

from ignite.domain.errors import FailedPrecondition
from ignite.domain.versions import Language, Runtime
from ignite.layout import Layout
from ignite.runtimes.python.recipe import PREFERRED_VERSION
from ignite.sandbox.bubblewrap import Mount, Tools
from ignite.sandbox.cgroups import ControlGroups
from ignite.sandbox.etc import write_etc
from ignite.sandbox.interpreters import MOUNT_POINT, Interpreter, python_interpreters
from ignite.sandbox.network.egress import Egress, Way
from ignite.sandbox.report import SandboxReport, report
from ignite.settings import Settings

logger = logging.getLogger(__name__)

RUNTIME_FOLDER = "/ignite"
UV = "uv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom folders are handed to: the user of our unprivileged roles."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The shared parts. Built once by `prepare_host`."""

    report: SandboxReport
    groups: ControlGroups
    interpreters: Mapping[str, Interpreter]
    egress: Egress
    etc: Path
    etc_of_builds: Path
    runtime_files: Path
    uv: Path | None
    owner: Owner

    @property
    def tools(self) -> Tools:
        """Programs that make sandboxes."""
        return self.report.tools

    def interpreter(self, runtime: Runtime) -> Interpreter:
        """Return the Python of `runtime`, of the preferred version for "".

        Raises FailedPrecondition.
        """
        if runtime.language is not Language.PYTHON:
            raise FailedPrecondition(
                f"language {runtime.language} cannot run on this machine", reason="NoToolchain"
            )
        minor = ".".join(runtime.version.split(".")[:2])
        wanted = minor or PREFERRED_VERSION
        found = self.interpreters.get(wanted)
        if found is None and not minor:
            found = next(iter(self.interpreters.values()), None)
        if found is None:
            known = ", ".join(self.interpreters) or "none"
            raise FailedPrecondition(
                f"this machine has no Python {minor or 'at all'}; it has {known}",
                reason="NoToolchain",
            )
        return found

    def interpreter_mounts(self, interpreter: Interpreter) -> tuple[Mount, ...]:
        """Return what makes `interpreter` visible inside."""
        if interpreter.is_system:
            return ()
        return (Mount(source=interpreter.prefix, target=MOUNT_POINT),)


def prepare_host(
    settings: Settings, layout: Layout, egress: Egress, *, gateway: IPv4Address | None = None
) -> Host:
    """Look at the machine and write the shared folders. Blocks for about a second.

    `gateway` answers for names where a network is filtered.
    """
    groups = ControlGroups(layout.run.name)
    made = report(settings.runtime, egress, groups)
    for layer in made.missing:
        logger.warning(
            "sandbox layer missing",
            extra={"layer": layer.name, "why": layer.detail, "fix": layer.fix},
        )
    shared = layout.replicas / ".shared"
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    interpreters = python_interpreters(settings.runtime)
    return Host(
        report=made,
        groups=groups,
        interpreters=interpreters,
        egress=egress,
        etc=_etc(shared / "etc", egress.replicas, gateway),
        etc_of_builds=_etc(shared / "etc-builds", egress.builds, gateway),
        runtime_files=_write_runtime_files(shared / "runtime", interpreters),
        uv=_find_uv(),
        owner=owner_of(settings),
    )


def _etc(folder: Path, way: Way, gateway: IPv4Address | None) -> Path:
    resolver = str(gateway) if way == "filtered" and gateway is not None else ""
    return write_etc(folder, has_network=way != "none", resolver=resolver)


def owner_of(settings: Settings) -> Owner:
    """Return the unprivileged user, or ourselves where there is no such user or we are not root."""
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(settings.server.user)
        except KeyError:
            logger.warning("no such user", extra={"user": settings.server.user})
        else:
            return Owner(uid=entry.pw_uid, gid=entry.pw_gid)
    return Owner(uid=os.geteuid(), gid=os.getegid())


def _write_runtime_files(folder: Path, interpreters: Mapping[str, Interpreter]) -> Path:
    """Copy the files that run inside, compiled for every Python so that no start has to.

    What is there already is left as it is while it would come out the same.
    """
    spec = find_spec("ignite.runtimes.python")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    files = {
        path.relative_to(source): path.read_bytes()
        for path in sorted(source.rglob("*.py"))
        if path != source / "__init__.py"
    }
    mark = _digest(files, interpreters)
    kept = folder / ".mark"
    if kept.exists() and kept.read_text() == mark:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / UV).touch()
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda one: _compile(one, folder), interpreters.values()))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    kept.write_text(mark)
    return folder


def _digest(files: Mapping[Path, bytes], interpreters: Mapping[str, Interpreter]) -> str:
    versions = [f"{found.version} {found.path}" for found in interpreters.values()]
    parts = [repr(versions).encode(), repr(list(files)).encode(), *files.values()]
    # Each part by its own digest, so that none can run into the next.
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()


def _compile(interpreter: Interpreter, folder: Path) -> None:
    env = {"LD_LIBRARY_PATH": f"{interpreter.prefix}/lib"} if interpreter.needs_library_path else {}
    # The files never change under the same path, so that the cached ones need no second look.
    command = ["-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run(
        [str(interpreter.path), *command, "-s", str(folder), "-p", RUNTIME_FOLDER, str(folder)],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    if done.returncode:
        logger.warning("runtime files not compiled", extra={"python": interpreter.version})


def _find_uv() -> Path | None:
    spec = find_spec("uv")
    if spec is not None and spec.origin is not None:
        # The wheel puts the program beside the interpreter of its environment.
        for parent in Path(spec.origin).parents:
            if (parent / "bin" / UV).is_file():
                return parent / "bin" / UV
    found = shutil.which(UV, path="/usr/local/bin:/usr/bin")
    return Path(found) if found else None
