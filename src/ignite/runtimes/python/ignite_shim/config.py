"""What the spawner tells the replica, in `IGNITE_*` variables."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Config:
    """The variables with their defaults; only `IGNITE_SOCKET` has none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.socket = environ["IGNITE_SOCKET"]
        self.app_dir = environ.get("IGNITE_APP_DIR") or "/app"
        self.max_concurrency = max(1, int(environ.get("IGNITE_MAX_CONCURRENCY") or 16))
        self.queue_length = max(0, int(environ.get("IGNITE_QUEUE_LENGTH") or 64))
        self.timeout_secs = float(environ.get("IGNITE_TIMEOUT_SECS") or 60)
        self.max_body_bytes = int(environ.get("IGNITE_MAX_BODY_BYTES") or 64 * 1024 * 1024)
        self.health_path = (environ.get("IGNITE_HEALTH_PATH") or "/healthz").encode()
        self.function_id = environ.get("IGNITE_FUNCTION_ID", "")
        self.organization_id = environ.get("IGNITE_ORGANIZATION_ID", "")
