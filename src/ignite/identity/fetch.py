"""Fetches JWK sets: of another issuer over HTTP(S), of our own over the edge's unix socket.

Both run in a thread with the standard library's client: a fetch happens once in minutes, and it
keeps the request path free of a client library.
"""

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ignite.domain.errors import Unavailable
from ignite.identity.jwks import Fetch

MAX_BYTES = 1024 * 1024
TIMEOUT_SECS = 5.0


def fetch_url(url: str) -> Fetch:
    """Return a fetch of the JWK set at `url`. Redirects are not followed."""
    _check_url(url)

    async def fetch() -> bytes:
        return await asyncio.to_thread(_get_url, url)

    return fetch


def fetch_by_discovery(issuer: str) -> Fetch:
    """Return a fetch of the JWK set that the issuer's discovery document names."""
    discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    _check_url(discovery)

    async def fetch() -> bytes:
        return await asyncio.to_thread(_discover, discovery, issuer)

    return fetch


def fetch_unix(path: Path, target: str) -> Fetch:
    """Return a fetch of `target` from an HTTP server on a unix socket."""

    async def fetch() -> bytes:
        return await asyncio.to_thread(_get_unix, path, target)

    return fetch


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https address: {url!r}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _get_url(url: str) -> bytes:
    try:
        with _opener.open(url, timeout=TIMEOUT_SECS) as answer:
            content: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise Unavailable(f"the issuer's keys cannot be fetched: {type(error).__name__}") from error
    return _bounded(content)


def _discover(discovery: str, issuer: str) -> bytes:
    try:
        found = json.loads(_get_url(discovery))
        named, address = found["issuer"], found["jwks_uri"]
        _check_url(address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable("the issuer's discovery document cannot be read") from error
    if named != issuer:
        raise Unavailable("the discovery document is of another issuer")
    return _get_url(address)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECS)
        self.sock.connect(str(self._path))


def _get_unix(path: Path, target: str) -> bytes:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        content = answer.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("our own keys cannot be fetched") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise Unavailable(f"our own keys answer {answer.status}")
    return _bounded(content)


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise Unavailable("a JWK set over a megabyte is not read")
    return content
