"""What of the standard library is loaded before the fork, because many apps load it behind it.

Large packages take a fifth of their import to load the same modules of the standard library. Here
they are loaded once for all. A module is in the list when several of the packages that apps bring
along load it, and when its import leaves nothing behind that an app could want otherwise: no
thread, no file, no reading of the environment (that is why `zoneinfo` is not in it) and no use of a
random number.

An app may have a module of such a name. It finds its own, as it would in an interpreter of its own:
see `forget_hidden`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MODULES = (
    *("calendar", "concurrent.futures.thread", "configparser", "csv", "dataclasses", "datetime"),
    *("decimal", "email.message", "email.parser", "email.utils", "encodings.idna", "fractions"),
    *("gzip", "hashlib", "hmac", "html", "http.client", "http.cookiejar", "http.cookies"),
    *("importlib.metadata", "importlib.resources", "mimetypes", "mmap", "numbers", "pathlib"),
    *("pickle", "platform", "pprint", "random", "secrets", "shlex", "ssl", "sysconfig"),
    *("tempfile", "typing", "unicodedata", "urllib.error", "urllib.parse", "urllib.request"),
    *("uuid", "xml.etree.ElementTree"),
)


def preload() -> frozenset[str]:
    """Load them; return the names of all modules that came in by it."""
    before = set(sys.modules)
    for name in MODULES:
        # An interpreter may be built without some.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return frozenset(sys.modules) - before


def forget_hidden(loaded: Iterable[str], paths: Sequence[str]) -> None:
    """Unload all of it where an app has a module of its own by the name of one.

    All, since those that load the hidden one would have loaded the app's. Parts written in C stay:
    they load none.
    """
    present = {name.partition(".")[0] for path in paths for name in _names(path)}
    candidates = {name.partition(".")[0] for name in loaded} & present
    hidden = {name for name in candidates if _is_module(name, paths)}
    if not hidden:
        return
    for name in loaded:
        source = getattr(sys.modules.get(name), "__file__", None) or ""
        if source.endswith(".py") or name.partition(".")[0] in hidden:
            sys.modules.pop(name, None)
            parent, _, last = name.rpartition(".")
            if parent in sys.modules:
                with contextlib.suppress(AttributeError):
                    delattr(sys.modules[parent], last)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _is_module(name: str, paths: Sequence[str]) -> bool:
    """Tell whether it would be loaded from `paths`; a mere folder would not."""
    spec = PathFinder.find_spec(name, list(paths))
    return spec is not None and spec.has_location
