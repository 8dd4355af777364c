"""Which Pythons this machine has, one for each minor version.

Only those that start and have what an HTTP server needs count: a half-removed installation or one
built without TLS is worse than none. An installation in somebody's home is mounted into sandboxes
at a place of its own, where it finds its library by path alone, unless it was built with a shared
libpython; then it needs to be told.
"""

import functools
import os
import pwd
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ignite.settings import RuntimeSettings

OLDEST = (3, 9)
MOUNT_POINT = "/opt/python"

_EXECUTABLE = re.compile(r"python3\.\d+")
_PROBE = (
    "import sys, ssl, asyncio, ctypes, hashlib, json, socket, threading, zlib;"
    "print('%d.%d.%d' % sys.version_info[:3], sys.implementation.name)"
)
_SYSTEM = Path("/usr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """One Python. `path` and `prefix` are on the machine."""

    path: Path
    prefix: Path
    version: str
    needs_library_path: bool

    @property
    def minor(self) -> str:
        """Return "3.11" of "3.11.7"."""
        return self.version.rsplit(".", 1)[0]

    @property
    def is_system(self) -> bool:
        """Tell whether every sandbox sees it anyway, below /usr."""
        return self.prefix.is_relative_to(_SYSTEM)

    @property
    def inner_prefix(self) -> str:
        """Return where the prefix lies inside a sandbox."""
        return str(self.prefix) if self.is_system else MOUNT_POINT

    @property
    def inner_path(self) -> str:
        """Return where the executable lies inside a sandbox."""
        return str(Path(self.inner_prefix) / self.path.relative_to(self.prefix))

    @property
    def inner_env(self) -> dict[str, str]:
        """Return what it needs in its environment inside a sandbox."""
        return {"LD_LIBRARY_PATH": f"{self.inner_prefix}/lib"} if self.needs_library_path else {}


def python_interpreters(settings: RuntimeSettings) -> Mapping[str, Interpreter]:
    """Return minor version → interpreter, newest first.

    Where there are several of one, those of the settings win, then the system's, then those in the
    home of who runs this. Every candidate is asked once a process; later calls are free.
    """
    return _found(settings.python_prefixes)


@functools.cache
def _found(prefixes: tuple[Path, ...]) -> Mapping[str, Interpreter]:
    candidates = list(_candidates(prefixes))
    with ThreadPoolExecutor(max_workers=4) as pool:
        working = [found for found in pool.map(_probe, candidates) if found]
    chosen: dict[str, Interpreter] = {}
    for interpreter in working:
        chosen.setdefault(interpreter.minor, interpreter)
    return dict(sorted(chosen.items(), key=lambda item: _numbers(item[0]), reverse=True))


def _candidates(prefixes: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield (prefix, executable), the preferred first, each executable once."""
    folders = [*prefixes, _SYSTEM, _SYSTEM / "local", *home_prefixes()]
    seen: set[Path] = set()
    for prefix in folders:
        for name in _names(prefix / "bin"):
            path = prefix / "bin" / name
            real = path.resolve()
            if real not in seen and _numbers(name) >= OLDEST:
                seen.add(real)
                yield prefix, path


def home_prefixes() -> tuple[Path, ...]:
    """Return installations in the home of who started us, the newest first; none is asked."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    found: list[Path] = []
    for pattern in (".pyenv/versions/3.*", ".local/share/uv/python/*"):
        try:
            found += sorted(home.glob(pattern), key=lambda p: _numbers(p.name), reverse=True)
        except OSError:
            continue
    return tuple(found)


def _names(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted((n for n in names if _EXECUTABLE.fullmatch(n)), key=_numbers, reverse=True)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _probe(candidate: tuple[Path, Path]) -> Interpreter | None:
    prefix, path = candidate
    # Without its own directory in the search path a build with a shared library fails to start, or
    # starts with the libpython of another installation and then names another version.
    for needs_library_path in (False, True):
        env = {"LD_LIBRARY_PATH": str(prefix / "lib")} if needs_library_path else {}
        version = _version(path, env)
        if version and _numbers(version)[:2] == _numbers(path.name)[:2]:
            shared = any((prefix / "lib").glob(f"lib{path.name}*.so*"))
            needed = shared and not prefix.is_relative_to(_SYSTEM)
            return Interpreter(path=path, prefix=prefix, version=version, needs_library_path=needed)
    return None


def _version(path: Path, env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [str(path), "-I", "-S", "-c", _PROBE],
            env=dict(env),
            capture_output=True,
            timeout=20,
            check=False,
            text=True,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    words = done.stdout.split()
    return words[0] if done.returncode == 0 and len(words) == 2 and words[1] == "cpython" else ""
