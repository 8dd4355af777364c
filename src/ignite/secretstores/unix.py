"""HTTP over a unix socket for `requests`, which hvac speaks through."""

import socket
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

UNIX_BASE = "http://localhost"
"""What to use as the base URL of a session whose requests all go to one socket."""


def unix_session(path: Path, *, connections: int) -> requests.Session:
    """Return a session that sends everything to the socket at `path`."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", _UnixAdapter(path, connections))
    return session


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        timeout = self.timeout
        try:
            stream.settimeout(timeout if isinstance(timeout, int | float) else None)
            stream.connect(str(self._path))
        except BaseException:
            stream.close()
            raise
        return stream


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: Path, connections: int) -> None:
        super().__init__("localhost", maxsize=connections, block=True)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class _UnixAdapter(HTTPAdapter):
    def __init__(self, path: Path, connections: int) -> None:
        super().__init__()
        self._pool = _UnixPool(path, connections)

    def get_connection_with_tls_context(
        self, *_about: object, **_more: object
    ) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
