"""Which addresses to listen on: defaults, safety rules, free ports.

Without a certificate the server stays on loopback; plain text elsewhere has to be asked for.
"""

import ipaddress
import secrets
import socket
from dataclasses import dataclass

from ignite.settings import ServerSettings, SettingsError

LOOPBACK = "127.0.0.1"
_OWN_PORTS = range(15_000, 32_000)
_ATTEMPTS = 50
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the contract's default, with a certificate only


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host (an IP address or `localhost`) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def for_clients(self) -> "Address":
        """Return an address that a client on this machine can dial."""
        if self.host in (EVERYWHERE, "::"):
            return Address(host=LOOPBACK, port=self.port)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The three listeners, with real ports."""

    api: Address
    admin: Address
    http: Address
    has_tls: bool

    @property
    def scheme(self) -> str:
        """Return the scheme of public URLs."""
        return "https" if self.has_tls else "http"


def resolve(settings: ServerSettings) -> Addresses:
    """Return the addresses to listen on; raises SettingsError naming the variable."""
    has_tls = settings.tls_cert_file is not None
    if has_tls != (settings.tls_key_file is not None):
        raise SettingsError(
            "IGNITE__SERVER__TLS_CERT_FILE and IGNITE__SERVER__TLS_KEY_FILE go together"
        )
    host = EVERYWHERE if has_tls else LOOPBACK
    wanted = {
        "IGNITE_API_LISTEN_ADDR": (settings.api_listen_addr, 50051),
        "IGNITE_ADMIN_LISTEN_ADDR": (settings.admin_listen_addr, 50052),
        "IGNITE_HTTP_LISTEN_ADDR": (settings.http_listen_addr, 8443 if has_tls else 8080),
    }
    found = []
    for variable, (text, port) in wanted.items():
        address = parse(text, variable) if text else Address(host=host, port=port)
        # The admin listener is mTLS whatever the others are.
        is_safe = has_tls or address.is_loopback or variable == "IGNITE_ADMIN_LISTEN_ADDR"
        if not is_safe and not settings.insecure_plaintext:
            raise SettingsError(
                f"{variable}: {address} is not loopback and there is no certificate: set "
                "IGNITE__SERVER__TLS_CERT_FILE and IGNITE__SERVER__TLS_KEY_FILE, or pass "
                "--insecure-plaintext"
            )
        found.append(_take(address, variable))
    api, admin, http = found
    if len({str(address) for address in found}) < len(found):
        raise SettingsError("the three listen addresses must differ")
    return Addresses(api=api, admin=admin, http=http, has_tls=has_tls)


def parse(text: str, variable: str) -> Address:
    """Return the address of `host:port`; raises SettingsError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{variable}: {text!r} is not host:port with a port of 0 to 65535")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise SettingsError(f"{variable}: {host!r} is not an IP address") from None
    return Address(host=host, port=int(port))


def _take(address: Address, variable: str) -> Address:
    """Return the address with a free port for port 0; raises SettingsError when it is taken."""
    if address.port == 0:
        return _free(address)
    try:
        return _bound(address)
    except OSError as error:
        raise SettingsError(f"{variable}: cannot listen on {address}: {error.strerror}") from None


def _free(address: Address) -> Address:
    """Return the address with a free port.

    Another process binds it a moment later, so it comes from below the range that the system gives
    to outgoing connections: there nobody takes it meanwhile by chance.
    """
    for _ in range(_ATTEMPTS):
        port = _OWN_PORTS.start + secrets.randbelow(len(_OWN_PORTS))
        try:
            return _bound(Address(host=address.host, port=port))
        except OSError:
            continue
    return _bound(address)


def _bound(address: Address) -> Address:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address.host, address.port))
        return Address(host=address.host, port=probe.getsockname()[1])
