"""The two requests that tell whether our own store serves: a login and a read.

The supervisor asks, and lives as long as the server. The client library with all it brings would
be a seventh of its memory, for a question that is asked until the first good answer.
"""

import asyncio
import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from ignite.settings import VaultSettings

_ABSENT_DOCUMENT = "platform/probe"


async def serves(path: Path, settings: VaultSettings) -> bool:
    """Tell whether the store behind the socket at `path` lets us in and has its mount."""
    return await asyncio.to_thread(_serves, path, settings)


def _serves(path: Path, settings: VaultSettings) -> bool:
    credentials = {
        "role_id": settings.role_id,
        "secret_id": settings.secret_id.get_secret_value(),
    }
    connection = _UnixConnection(path, settings.timeout_secs)
    try:
        status, body = connection.ask("POST", "/v1/auth/approle/login", body=credentials)
        if status != 200:
            return False
        token = json.loads(body)["auth"]["client_token"]
        place = f"/v1/{settings.mount}/metadata/{_ABSENT_DOCUMENT}"
        status, body = connection.ask("GET", place, token=token)
        # Both say that it need not be there; with a mount that is still being made comes an error.
        return status == 200 or (status == 404 and not json.loads(body).get("errors"))
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout_secs: float) -> None:
        super().__init__("localhost", timeout=timeout_secs)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(
        self, method: str, path: str, *, body: object = None, token: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer."""
        headers = {"x-vault-request": "true"}
        if token:
            headers["x-vault-token"] = token
        self.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        answer = self.getresponse()
        return answer.status, answer.read()
