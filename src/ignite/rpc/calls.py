"""How many calls one caller has under way, so that no one takes the server from the others.

A caller is an account in an organisation. Both edges of the API count in the same book. Who is at
the bound is refused at once: waiting would hold the very memory that the bound is for.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ignite.domain.errors import ResourceExhausted
from ignite.domain.identity import Principal


class CallsUnderWay:
    """Counts calls by caller; belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_of(self, principal: Principal) -> Iterator[None]:
        """Count a call while it is under way; raises ResourceExhausted at the bound."""
        caller = (principal.organization.id, principal.subject)
        if self._calls[caller] >= self._most:
            raise ResourceExhausted(
                f"at most {self._most} calls of one caller at once",
                reason="TooManyCalls",
                details={"calls_per_caller": str(self._most), "retry_after_secs": "1"},
            )
        self._calls[caller] += 1
        try:
            yield
        finally:
            self._calls[caller] -= 1
            if not self._calls[caller]:
                del self._calls[caller]
