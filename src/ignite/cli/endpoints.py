"""Addresses as people write them, and whether TLS is spoken there.

Plain text on loopback, where no certificate would mean anything, and with --debug; TLS everywhere
else, so that a bearer never crosses a network in the clear by accident.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ignite.cli.failures import Failure, WrongUse

_PLAIN = ("http", "grpc")
_SECURE = ("https", "grpcs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to connect."""

    target: str
    secure: bool


def parse(text: str, *, plaintext: bool) -> Endpoint:
    """Read `host:port`, `scheme://host:port` or `unix:path`; `plaintext` turns TLS off."""
    if text.startswith("unix:"):
        return Endpoint(target=text, secure=False)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if scheme and scheme not in (*_PLAIN, *_SECURE):
        raise _wrong(text)
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(text) from error
    if not host or parts.path.strip("/") or parts.username:
        raise _wrong(text)
    loopback = is_loopback(host)
    if scheme in _PLAIN and not loopback and not plaintext:
        raise WrongUse(
            f"{text} would send your token in plain text over a network; use https, or --debug"
        )
    secure = not plaintext and (scheme in _SECURE or not loopback)
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(target=f"{shown}:{port or (443 if secure else 80)}", secure=secure)


def is_loopback(host: str) -> bool:
    """Return whether `host` can only be this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_base(text: str) -> str:
    """Return an HTTP address as `scheme://host[:port]`."""
    if "://" in text:
        base = text
    else:
        host = urlsplit(f"//{text}").hostname or ""
        base = f"http://{text}" if is_loopback(host) else f"https://{text}"
    scheme = urlsplit(base).scheme
    if scheme not in ("http", "https"):
        raise _wrong(text)
    return base.rstrip("/")


def _wrong(text: str) -> Failure:
    return WrongUse(f"{text!r} is not an address such as 127.0.0.1:50051 or https://host:443")
