"""Where things lie: the data directory, and the short folder of sockets.

A unix socket's path has 107 bytes at most, so sockets live under a run folder of their own, named
after the data directory.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

DATA_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installation. The supervisor makes the folders and sets their owners."""

    data: Path

    @property
    def run(self) -> Path:
        """Sockets. `/run/ignite/<8 hex>` as root, else below `/tmp`."""
        tag = hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:8]
        if os.geteuid() == 0 or Path(f"/run/ignite/{tag}").exists():
            return Path(f"/run/ignite/{tag}")
        # A folder of somebody else's making is refused: its mode cannot be set (`make_folder`).
        return Path(f"/tmp/ignite-{os.geteuid()}-{tag}")  # noqa: S108

    @property
    def connection_file(self) -> Path:
        """What a client on this machine needs (0600)."""
        return self.data / "connection.json"

    @property
    def lock_file(self) -> Path:
        """Held by the running server."""
        return self.data / "lock"

    @property
    def format_file(self) -> Path:
        """The number of the data directory's format."""
        return self.data / "format"

    @property
    def logs(self) -> Path:
        """One rotated file a child."""
        return self.data / "logs"

    @property
    def postgres(self) -> Path:
        """Data of the embedded Postgres."""
        return self.data / "postgres"

    @property
    def openbao(self) -> Path:
        """Data of the embedded OpenBao."""
        return self.data / "openbao"

    @property
    def keys(self) -> Path:
        """Passwords, the unseal key and AppRole files, each 0600."""
        return self.data / "keys"

    @property
    def pki(self) -> Path:
        """CA, server and client certificates of the admin listener."""
        return self.data / "pki"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.data / "blobs"

    @property
    def artifacts(self) -> Path:
        """Unpacked, ready to mount, one folder an artifact digest."""
        return self.data / "artifacts"

    def artifact(self, organization: str, digest: str) -> Path:
        """Return the folder of one artifact; organisations share none."""
        return self.artifacts / artifact_tag(organization) / digest

    @property
    def builds(self) -> Path:
        """Work folders of compiles under way, and caches keyed by organisation."""
        return self.data / "builds"

    @property
    def replicas(self) -> Path:
        """State the spawner keeps of its replicas, and their logs."""
        return self.data / "replicas"

    @property
    def gateway(self) -> Path:
        """The last route table."""
        return self.data / "gateway"

    @property
    def postgres_socket_dir(self) -> Path:
        """Folder of Postgres' socket."""
        return self.run / "pg"

    @property
    def openbao_socket(self) -> Path:
        """The embedded OpenBao's HTTP API (0600)."""
        return self.run / "bao.sock"

    @property
    def controllers_socket(self) -> Path:
        """ignite.internal.v1 RouteService, served by controllers (0600)."""
        return self.run / "controllers.sock"

    @property
    def spawner_socket(self) -> Path:
        """ignite.internal.v1 ReplicaService, served by the spawner (0600)."""
        return self.run / "spawner.sock"

    @property
    def xds_socket(self) -> Path:
        """Delta ADS and LRS, served by the gateway to Envoy (0600)."""
        return self.run / "xds.sock"

    @property
    def activator_socket(self) -> Path:
        """HTTP/1.1, served by the gateway to Envoy (0600)."""
        return self.run / "activator.sock"

    @property
    def edge_socket(self) -> Path:
        """h2c, the Python HTTP edge, served by api to Envoy (0600)."""
        return self.run / "edge.sock"

    @property
    def api_socket(self) -> Path:
        """gRPC, the public services again, served by api to Envoy's transcoder (0600)."""
        return self.run / "api.sock"

    @property
    def internal_socket(self) -> Path:
        """Envoy's internal HTTP/1.1 listener: the road of api to replicas (0600)."""
        return self.run / "internal.sock"

    @property
    def envoy_admin_socket(self) -> Path:
        """Envoy's admin interface (0600)."""
        return self.run / "envoy-admin.sock"

    def metrics_socket(self, role: str) -> Path:
        """Return where a role answers GET /metrics, unless a setting says where (0600)."""
        return self.run / f"metrics-{role}.sock"

    @property
    def replica_sockets(self) -> Path:
        """One folder a replica: `r/<id>/s`, writable by that replica's uid alone."""
        return self.run / "r"


def artifact_tag(organization: str) -> str:
    """Return the name of the folder that holds an organisation's artifacts."""
    return hashlib.sha256(organization.encode()).hexdigest()[:16]
