"""Archives as they may come from a stranger: which names, how many, how large. Pure rules.

Everything is refused by name before anything is written, and as the strictest reader would: names
that two file systems (or two people) could take for one another do not pass.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ignite.domain.errors import InvalidArgument

FIELD = "code.archive"

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 64
# Below this a high ratio is only a compressible file.
RATIO_FLOOR_BYTES = 1024 * 1024

_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """Bounds; `ratio` is unpacked over packed size of the whole archive."""

    archive_bytes: int
    unpacked_bytes: int
    entries: int
    ratio: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or folder, by its path with `/` and without one at the end."""

    path: str
    is_folder: bool
    is_executable: bool
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What an archive holds, in its order; every name and size has been checked."""

    entries: tuple[Entry, ...]

    @property
    def files(self) -> frozenset[str]:
        """Return the paths of the files."""
        return frozenset(entry.path for entry in self.entries if not entry.is_folder)

    def prefix(self, entry_files: Sequence[str]) -> str:
        """Return the one top folder to strip, with its `/`, or "".

        It is stripped only where none of `entry_files` is at the root and one of them is inside.
        """
        files = self.files
        tops = {entry.path.partition("/")[0] for entry in self.entries}
        if len(tops) != 1 or any(name in files for name in entry_files):
            return ""
        top = next(iter(tops)) + "/"
        return top if any(top + name in files for name in entry_files) else ""


class Names:
    """Takes the names of an archive one by one; refuses what may not be, or not together."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, name: str, *, is_folder: bool) -> str:
        """Return the path that `name` stands for, "" for the root itself."""
        path = _path(name)
        if not path:
            return ""
        parts = path.split("/")
        for depth in range(1, len(parts)):
            self._note("/".join(parts[:depth]), is_folder=True, name=name)
        if not is_folder and _key(path) in self._seen:
            raise refused("ArchiveNameCollision", f"entry {shown(name)} collides with another one")
        self._note(path, is_folder=is_folder, name=name)
        return path

    def _note(self, path: str, *, is_folder: bool, name: str) -> None:
        exact, was_folder = self._seen.setdefault(_key(path), (path, is_folder))
        if exact != path or was_folder != is_folder:
            raise refused(
                "ArchiveNameCollision",
                f"entry {shown(name)} collides with {shown(exact)}",
            )


def refused(reason: str, message: str) -> InvalidArgument:
    """Return the refusal of an archive."""
    return InvalidArgument(message, field=FIELD, reason=reason)


def shown(name: str) -> str:
    """Return a name as it may stand in a message: quoted, escaped and cut."""
    text = ascii(name)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def check_archive_bytes(size: int, limits: ArchiveLimits) -> None:
    """Refuse an archive that is too large as sent."""
    if size > limits.archive_bytes:
        raise refused(
            "ArchiveTooLarge",
            f"has {size} bytes, over the bound of {limits.archive_bytes}",
        )


def check_count(count: int, limits: ArchiveLimits) -> None:
    """Refuse too many entries."""
    if count > limits.entries:
        raise refused("ArchiveTooManyEntries", f"has more than {limits.entries} entries")


def check_unpacked(unpacked: int, packed: int, name: str, limits: ArchiveLimits) -> None:
    """Refuse once `unpacked` bytes came out of an archive of `packed`, at entry `name`."""
    if unpacked > limits.unpacked_bytes:
        raise refused(
            "ArchiveUnpackedTooLarge",
            f"entry {shown(name)} takes the unpacked size over {limits.unpacked_bytes} bytes",
        )
    if unpacked > max(RATIO_FLOOR_BYTES, packed * limits.ratio):
        raise refused(
            "ArchiveBomb",
            f"entry {shown(name)} takes the unpacked size over {limits.ratio} times the packed",
        )


def _path(name: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name) or "\\" in name:
        raise refused(
            "ArchiveBadName",
            f"entry {shown(name)} has a backslash or control character",
        )
    if name.startswith("/") or _DRIVE.match(name):
        raise refused("ArchiveAbsolutePath", f"entry {shown(name)} has an absolute path")
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        raise refused("ArchivePathTraversal", f"entry {shown(name)} leads out of its folder")
    while parts and parts[0] == ".":
        parts = parts[1:]
    if any(part in ("", ".") for part in parts):
        raise refused("ArchiveBadName", f"entry {shown(name)} has an empty part in its path")
    if len(parts) > MAX_DEPTH:
        raise refused("ArchiveNameTooLong", f"entry {shown(name)} is over {MAX_DEPTH} folders deep")
    path = "/".join(parts)
    longest = max((len(part.encode()) for part in parts), default=0)
    if longest > MAX_NAME_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        raise refused(
            "ArchiveNameTooLong",
            f"entry {shown(name)} is over {MAX_NAME_BYTES} bytes a name or {MAX_PATH_BYTES} in all",
        )
    return path


def _key(path: str) -> str:
    """Return what a careless file system would call `path`."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
