"""The server on this machine: what its `connection.json` says to a client.

So that `ignite app deploy` needs no configuration beside a running `ignite serve`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ignite.cli.failures import Failure
from ignite.cli.flags import Flags, reason_of

FILE = "connection.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """An installation's addresses and the development credentials it made at its first start."""

    folder: Path
    grpc: str
    http: str
    admin: str
    base_domain: str
    org: str
    token: str
    ca: str
    client_id: str
    client_secret: str

    @property
    def pki(self) -> Path:
        """Certificates for the admin listener."""
        return self.folder / "pki"


def find_local(flags: Flags) -> LocalServer | None:
    """Return the first installation that has a connection file."""
    folders = (
        [flags.data_dir]
        if flags.data_dir is not None
        else [Path(".ignite"), Path.home() / ".ignite" / "data"]
    )
    for folder in folders:
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            continue
        except OSError as error:
            raise Failure(f"cannot read {folder / FILE}: {reason_of(error)}") from error
        return _parse(folder, text)
    return None


def _parse(folder: Path, text: str) -> LocalServer:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise Failure(f"{folder / FILE} is not JSON; restart the server") from error
    if not isinstance(values, dict):
        raise Failure(f"{folder / FILE} must hold an object")

    def value(key: str) -> str:
        found = values.get(key)
        return found if isinstance(found, str) else ""

    return LocalServer(
        folder=folder,
        grpc=value("grpc"),
        http=value("http"),
        admin=value("admin"),
        base_domain=value("base_domain"),
        org=value("org"),
        token=value("token"),
        ca=value("ca"),
        client_id=value("client_id"),
        client_secret=value("client_secret"),
    )
