"""What both formats are read into."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

CHUNK_BYTES = 256 * 1024


class MemberKind(Enum):
    """What an entry claims to be."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry as the archive has it, its name decoded and otherwise unchecked.

    `chunks` yields exactly `size` bytes or raises; it has to be read to its end.
    """

    name: str
    kind: MemberKind
    is_executable: bool
    size: int
    chunks: Iterator[bytes]
