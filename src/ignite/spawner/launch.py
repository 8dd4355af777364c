"""From a replica's spec to the sandbox it runs in."""

from pathlib import Path

from ignite.domain.errors import FailedPrecondition
from ignite.domain.versions import Language
from ignite.sandbox.bubblewrap import Mount, SandboxSpec
from ignite.settings import RuntimeSettings
from ignite.spawner.folders import SOCKET_NAME
from ignite.spawner.host import RUNTIME_FOLDER, Host
from ignite.spawner.specs import ReplicaSpec, allowed_env

SOCKET_FOLDER = "/run/ignite"
APP_FOLDER = "/app"

# What each managed runtime is started with, after its interpreter.
_ARGUMENTS = {Language.PYTHON: ("-I", "-B", f"{RUNTIME_FOLDER}/shim.py")}


def replica_sandbox(
    spec: ReplicaSpec,
    host: Host,
    settings: RuntimeSettings,
    *,
    uid: int,
    artifact: int,
    socket_folder: int,
    passwd: Path,
    network: str,
) -> SandboxSpec:
    """Return the sandbox of a replica; `artifact` and `socket_folder` are open descriptors."""
    arguments = _ARGUMENTS.get(spec.runtime.language)
    if arguments is None:
        raise FailedPrecondition(
            f"language {spec.runtime.language} cannot run on this machine", reason="NoToolchain"
        )
    interpreter = host.interpreter(spec.runtime)
    return SandboxSpec(
        command=(interpreter.inner_path, *arguments),
        uid=uid,
        mounts=(
            *host.interpreter_mounts(interpreter),
            Mount(source=host.runtime_files, target=RUNTIME_FOLDER),
            Mount(source=artifact, target=APP_FOLDER),
            Mount(source=socket_folder, target=SOCKET_FOLDER, is_writable=True),
        ),
        etc=host.etc,
        passwd=passwd,
        env={**allowed_env(spec.env), **interpreter.inner_env, **_contract(spec, settings)},
        cwd=APP_FOLDER,
        tmp_bytes=settings.tmp_bytes,
        has_network=host.egress.replicas == "host",
        network=network,
    )


def _contract(spec: ReplicaSpec, settings: RuntimeSettings) -> dict[str, str]:
    return {
        "IGNITE_SOCKET": f"{SOCKET_FOLDER}/{SOCKET_NAME}",
        "IGNITE_APP_DIR": APP_FOLDER,
        "IGNITE_MAX_CONCURRENCY": str(spec.max_concurrency),
        "IGNITE_QUEUE_LENGTH": str(settings.queue_length),
        "IGNITE_MAX_BODY_BYTES": str(settings.request_bytes),
        "IGNITE_HEALTH_PATH": spec.health_path,
        "IGNITE_TIMEOUT_SECS": str(spec.timeout_secs),
        "IGNITE_FUNCTION_ID": f"{spec.organization_name}/{spec.app_name}",
        "IGNITE_ORGANIZATION_ID": spec.organization_id,
        "IGNITE_VERSION": str(spec.version),
        "PORT": str(spec.port),
    }
