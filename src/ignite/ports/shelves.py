"""The port of shelves: what is kept outside the database by a key that rows name.

Rows are the truth; what lies on a shelf without a row is waste. A shelf knows nothing of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class ShelfKind(StrEnum):
    """What lies on a shelf; the value is a label of metrics."""

    BLOB = "blob"
    ARTIFACT = "artifact"
    WORK_FOLDER = "work_folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One thing on a shelf. `stamp` changes whenever it is put there anew or kept once more."""

    key: str
    stamp: tuple[int, int]
    modified_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How much was removed."""

    count: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(
            count=self.count + other.count, size_bytes=self.size_bytes + other.size_bytes
        )


class Shelf(Protocol):
    """Things by key, in an order of its own that does not change."""

    @property
    def kind(self) -> ShelfKind:
        """What lies here."""

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        """Return up to `limit` things behind key `after` ("": from the first)."""

    async def remove(self, kept: Kept) -> Removed:
        """Remove a thing whose stamp is still `kept`'s; any other one is left alone.

        Who keeps a thing that is there already changes its stamp, so that of the two either the
        removal comes first and the thing is put anew, or it does not happen.
        """

    async def tidy(self) -> Removed:
        """Remove what writers and removals left half done that died."""
