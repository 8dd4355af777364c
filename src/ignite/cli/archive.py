"""A folder or file of code as the server takes it, and which runtime it is for.

The archive of a folder depends on names, contents and executable bits alone, so that the same
code gives the same bytes and an unchanged app is not published again.
"""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ignite.cli.failures import WrongUse
from ignite.cli.flags import reason_of

# The spec's list, and our own data folder, which holds keys.
SKIPPED = frozenset({".git", "node_modules", "__pycache__", "target", ".venv", ".ignite"})
ENTRY_FILES = (
    ("handler.py", "python"),
    ("Cargo.toml", "rust"),
    ("go.mod", "go"),
    ("main.ts", "deno"),
    ("main.js", "deno"),
    ("deno.json", "deno"),
    ("Dockerfile", "image"),
    ("main.go", "go"),
    ("main.rs", "rust"),
    ("src/lib.rs", "rust"),
    ("lib.rs", "rust"),
)
SUFFIXES = {".py": "python", ".rs": "rust", ".go": "go", ".ts": "deno", ".js": "deno"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What to send. `runtime` is a guess from the names, empty where they say nothing."""

    data: bytes
    is_archive: bool
    runtime: str


def read(path: Path) -> Code:
    """Pack a folder, or take an archive or a source file as it is."""
    try:
        if path.is_dir():
            files = dict(_files(path))
            if not files:
                raise WrongUse(f"{path} holds no files")
            return Code(data=_pack(files), is_archive=True, runtime=_runtime(set(files)))
        data = path.read_bytes()
    except OSError as error:
        raise WrongUse(f"cannot read {path}: {reason_of(error)}") from error
    if data.startswith((b"PK", b"\x1f\x8b")):
        return Code(data=data, is_archive=True, runtime=_runtime(_names(data, path)))
    if path.suffix not in SUFFIXES:
        raise WrongUse(f"{path} is neither a folder, an archive nor a source file")
    return Code(data=data, is_archive=False, runtime=SUFFIXES[path.suffix])


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name → file in a fixed order. A link counts as what it leads to, inside `root`."""
    real = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise WrongUse(f"{Path(folder) / name} is a link to a folder; copy it instead")
        for name in sorted(set(names) - SKIPPED):
            path = Path(folder) / name
            if not path.is_file():
                raise WrongUse(f"{path} is not a regular file")
            if not path.resolve().is_relative_to(real):
                raise WrongUse(f"{path} is a link that leads out of {root}")
            yield path.relative_to(root).as_posix(), path


def _pack(files: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            data = files[name].read_bytes()
            about = tarfile.TarInfo(name)
            about.size = len(data)
            about.mode = 0o755 if files[name].stat().st_mode & 0o100 else 0o644
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


def _names(data: bytes, path: Path) -> set[str]:
    """Return the archive's names, below its one top folder if it has one."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = {name for name in archive.namelist() if not name.endswith("/")}
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                names = {member.name.removeprefix("./") for member in tar if member.isfile()}
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise WrongUse(f"{path} is not a ZIP or tar.gz archive") from error
    tops = {name.partition("/")[0] for name in names}
    if len(tops) == 1 and all("/" in name for name in names):
        return {name.partition("/")[2] for name in names}
    return names


def _runtime(names: set[str]) -> str:
    return next((runtime for name, runtime in ENTRY_FILES if name in names), "")


def _raise(error: OSError) -> None:
    raise error
