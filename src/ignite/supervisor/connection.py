"""`connection.json`: what a client on this machine needs, written when the server is ready.

Holds a development token and the account that renews it, so it is 0600. The api role leaves those
in the keys folder; a token lives minutes, so the file is written again while the server runs.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ignite.layout import Layout
from ignite.privileges import write_private
from ignite.supervisor.addresses import Addresses

logger = logging.getLogger(__name__)

_REFRESH_SECS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Development:
    """Who a newcomer is: an organisation and an account in it."""

    organization: str
    client_id: str
    client_secret: str
    token: str


def read_development(layout: Layout) -> Development:
    """Return what the api role made."""
    found = json.loads((layout.keys / "development.json").read_text())
    return Development(
        organization=found["organization"],
        client_id=found["client_id"],
        client_secret=found["client_secret"],
        token=found["token"],
    )


class ConnectionFile:
    """Keeps `connection.json` true while the server runs. A Component."""

    name = "connection-file"

    def __init__(self, layout: Layout, addresses: Addresses, base_domain: str) -> None:
        self._layout = layout
        self._addresses = addresses
        self._base_domain = base_domain
        self.development: Development | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Write it now and whenever the token was renewed; remove it at the end."""
        try:
            self._write()
            ready()
            while True:
                await asyncio.sleep(_REFRESH_SECS)
                if read_development(self._layout) != self.development:
                    self._write()
        finally:
            self._layout.connection_file.unlink(missing_ok=True)

    def _write(self) -> None:
        self.development = read_development(self._layout)
        addresses = self._addresses
        content = {
            "grpc": str(addresses.api.for_clients),
            "http": f"{addresses.scheme}://{addresses.http.for_clients}",
            "admin": str(addresses.admin.for_clients),
            "base_domain": self._base_domain,
            "org": self.development.organization,
            "token": self.development.token,
            "client_id": self.development.client_id,
            "client_secret": self.development.client_secret,
            "ca": str(self._layout.pki / "ca.pem"),
        }
        write_private(self._layout.connection_file, (json.dumps(content, indent=2) + "\n").encode())
