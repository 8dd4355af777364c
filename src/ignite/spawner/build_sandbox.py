"""From a compile's spec to the sandbox it runs in."""

from collections.abc import Mapping
from pathlib import Path

from ignite.sandbox.bubblewrap import Mount, SandboxSpec
from ignite.sandbox.etc import CA_BUNDLE
from ignite.sandbox.interpreters import Interpreter
from ignite.settings import RuntimeSettings
from ignite.spawner.build_folders import WorkFolders
from ignite.spawner.host import RUNTIME_FOLDER, UV, Host
from ignite.spawner.specs import BuildSpec, allowed_env

SOURCE_FOLDER = "/src"
WORK_FOLDER = "/build"
OUTPUT_FOLDER = "/out"
CACHE_FOLDER = "/cache"
PYTHON_PLACEHOLDER = "{python}"

_ARGUMENT_PREFIX = "IGNITE_BUILD_ARG_"


def build_sandbox(
    spec: BuildSpec,
    host: Host,
    settings: RuntimeSettings,
    *,
    interpreter: Interpreter,
    source: int,
    folders: WorkFolders,
    passwd: Path,
    network: str,
) -> SandboxSpec:
    """Return the sandbox of a compile; `source` is an open descriptor of the source folder.

    `network` is where its network namespace lies, where it has one of its own.
    """
    mounts = [
        *host.interpreter_mounts(interpreter),
        Mount(source=host.runtime_files, target=RUNTIME_FOLDER),
        Mount(source=source, target=SOURCE_FOLDER),
        Mount(source=folders.work, target=WORK_FOLDER, is_writable=True),
        Mount(source=folders.output, target=OUTPUT_FOLDER, is_writable=True),
        Mount(source=folders.cache, target=CACHE_FOLDER, is_writable=True),
    ]
    if host.uv is not None:
        mounts.append(Mount(source=host.uv, target=f"{RUNTIME_FOLDER}/{UV}"))
    return SandboxSpec(
        command=tuple(
            word.replace(PYTHON_PLACEHOLDER, interpreter.inner_path) for word in spec.command
        ),
        uid=folders.uid,
        mounts=tuple(mounts),
        etc=host.etc_of_builds,
        passwd=passwd,
        env={
            **_allowed(spec.env),
            **interpreter.inner_env,
            **_BASE_ENV,
            "IGNITE_PYTHON": interpreter.inner_path,
            "IGNITE_PYTHON_VERSION": interpreter.version,
        },
        cwd=WORK_FOLDER,
        tmp_bytes=settings.tmp_bytes,
        has_network=host.egress.builds == "host",
        network=network,
    )


_BASE_ENV = {
    "HOME": WORK_FOLDER,
    "XDG_CACHE_HOME": CACHE_FOLDER,
    "UV_CACHE_DIR": f"{CACHE_FOLDER}/uv",
    "PIP_CACHE_DIR": f"{CACHE_FOLDER}/pip",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "NO_COLOR": "1",
    "SSL_CERT_FILE": CA_BUNDLE,
    "REQUESTS_CA_BUNDLE": CA_BUNDLE,
    "PIP_CERT": CA_BUNDLE,
    "GIT_TERMINAL_PROMPT": "0",
}


def _allowed(env: Mapping[str, str]) -> dict[str, str]:
    arguments = {name: text for name, text in env.items() if name.startswith(_ARGUMENT_PREFIX)}
    return {**allowed_env(env), **arguments}
