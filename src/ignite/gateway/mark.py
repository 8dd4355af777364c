"""How the activator's own errors are told from an app's answers on a warm app's route.

There both come from the same cluster, and what an app sends as `x-ignite-error` is thrown away. So
the activator names its error by a header that nobody else knows: its name ends in a secret of this
installation. Envoy gives the value its public name and removes the other.
"""

import os
import secrets
from pathlib import Path

from ignite.gateway import names


def error_mark(folder: Path) -> str:
    """Return the header's name; a restart keeps it, so that Envoy's routes stay as they are."""
    path = folder / "error-mark"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(16))
    except FileExistsError:
        pass
    secret = path.read_text().strip()
    if len(secret) != 32 or not secret.isalnum():
        # Cut short by a crash: another one, which changes the routes once.
        path.unlink()
        return error_mark(folder)
    return f"{names.ERROR}-{secret}"
