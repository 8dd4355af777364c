"""`ignite serve`: checks the ground before anything starts, and says how to reach the server."""

import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ignite.layout import Layout
from ignite.privileges import Owner, make_reachable, program_paths, service_user
from ignite.settings import Settings
from ignite.supervisor.addresses import Addresses, resolve
from ignite.supervisor.certificate import Certificates, place_certificate
from ignite.supervisor.connection import ConnectionFile
from ignite.supervisor.datadir import check_format, locked, make_folders
from ignite.telemetry.childlog import LogStream, RotatingLog
from ignite.telemetry.logs import configure

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What stands before anything is started. `owner` None: not root, everything is one user's."""

    settings: Settings
    layout: Layout
    addresses: Addresses
    certificates: Certificates
    owner: Owner | None


def serve(
    settings: Settings,
    say: Say,
    run: Callable[[Ground, Say], None],
    *,
    programs: Iterable[Path],
) -> None:
    """Prepare the ground and `run` the server on it.

    `programs` are folders outside the usual places that children need to reach.
    Raises SettingsError, DataDirError, Unreachable: each one is for the operator.
    """
    data = settings.server.data_dir.expanduser().absolute()
    settings = settings.model_copy(
        update={"server": settings.server.model_copy(update={"data_dir": data})}
    )
    layout = Layout(data)
    # Children inherit it; Envoy holds two descriptors for every connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with locked(layout):
        check_format(layout)
        addresses = resolve(settings.server)
        owner = service_user(settings.server.user)
        make_folders(layout, owner)
        certificates = Certificates(settings.server, layout, owner)
        server = place_certificate(settings.server, layout, owner)
        settings = settings.model_copy(update={"server": server})
        _log_to_file(settings, layout)
        certificates.renew()
        if owner is not None:
            make_reachable((*program_paths(), *programs, layout.data, layout.run), owner)
        ground = Ground(
            settings=_with_addresses(settings, addresses),
            layout=layout,
            addresses=addresses,
            certificates=certificates,
            owner=owner,
        )
        try:
            run(ground, say)
        finally:
            # Sockets without servers, and the copy of the key.
            shutil.rmtree(layout.run, ignore_errors=True)


def _log_to_file(settings: Settings, layout: Layout) -> None:
    """The terminal is for progress; from here on the supervisor's log is a file like the others."""
    log = RotatingLog(
        layout.logs / "supervisor.log",
        rotate_bytes=settings.log.rotate_bytes,
        keep=settings.log.rotate_count,
    )
    configure(settings.log.level, "supervisor", stream=LogStream(log))


def _with_addresses(settings: Settings, addresses: Addresses) -> Settings:
    server = settings.server.model_copy(
        update={
            "api_listen_addr": str(addresses.api),
            "admin_listen_addr": str(addresses.admin),
            "http_listen_addr": str(addresses.http),
        }
    )
    dns = settings.dns_tls.model_copy(
        update={"public_port": settings.dns_tls.public_port or addresses.http.port}
    )
    return settings.model_copy(update={"server": server, "dns_tls": dns})


class States:
    """Tells the operator what comes up while the server starts, and what goes down later."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.monotonic()
        self.is_serving = False

    def changed(self, name: str, up: bool) -> None:
        """Take a change of one child."""
        if not self.is_serving:
            if up:
                self._say(f"  {name:<12} up after {time.monotonic() - self._began:.1f} s")
        else:
            logger.warning("child is up" if up else "child is down", extra={"child": name})


def welcome(say: Say, connection: ConnectionFile, ground: Ground, seconds: float) -> None:
    """Say that the server is ready and how to reach it."""
    found = connection.development
    assert found is not None, "written before the server is ready"
    addresses = ground.addresses
    grpc = addresses.api.for_clients
    http = f"{addresses.scheme}://{addresses.http.for_clients}"
    plaintext = "" if addresses.has_tls else "-plaintext "
    organization = found.organization
    body = f'{{"organization_name":"{organization}"}}'
    say(
        f"""ready in {seconds:.1f} s

  export IGNITE_GRPC={grpc}
  export IGNITE_HTTP={http}
  export IGNITE_TOKEN={found.token}

The token is for development, in organisation {organization!r}. It lives minutes;
`{_command()} token` prints a fresh one. From another terminal:

  {_command()} app deploy hello --code examples/hello
  grpcurl {plaintext}-H "authorization: Bearer $IGNITE_TOKEN" -d '{body}' \\
    {grpc} dodil.ignite.v1.ComputeService/ListApps
  curl -H "Authorization: Bearer $IGNITE_TOKEN" {http}/v1/ignite/app/{organization}
"""
    )


def _command() -> str:
    """Return how the operator's shell finds our command line."""
    beside = Path(sys.executable).with_name("ignite")
    on_path = shutil.which("ignite")
    if on_path is not None or not beside.exists():
        return "ignite"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
