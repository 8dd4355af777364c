"""The uids of sandboxes: one each, never two alive with the same.

Two ranges of one block. Replicas take the next free uid in turn, so that one just given back rests
as long as possible. Builds of one organisation share a uid, because they share a cache on disk
whose owner must stay the same; which one it is says the cache folder itself.
"""

from dataclasses import dataclass, field

REPLICA_UIDS = 40_000
BUILD_UIDS = 10_000


class UidsExhausted(Exception):
    """Every uid of the range is in use."""


@dataclass(slots=True)
class UidPool:
    """Hands out uids of `[first, first + size)`."""

    first: int
    size: int
    _next: int = 0
    _used: set[int] = field(default_factory=set)

    def take(self) -> int:
        """Return a uid that nobody has; raises UidsExhausted."""
        for _ in range(self.size):
            uid = self.first + self._next
            self._next = (self._next + 1) % self.size
            if uid not in self._used:
                self._used.add(uid)
                return uid
        raise UidsExhausted(f"all {self.size} uids are in use")

    def give_back(self, uid: int) -> None:
        """Let `uid` be taken again, after all others."""
        self._used.discard(uid)

    def reserve(self, uid: int) -> bool:
        """Mark a uid known from elsewhere as used; False where it lies outside the range."""
        if not self.first <= uid < self.first + self.size:
            return False
        self._used.add(uid)
        return True
