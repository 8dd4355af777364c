"""How many calls one caller has under way, so that no one takes the server from the others.

A caller is an account in an organisation. Both edges of the API count in the same book. Who is at
the bound is refused at once: waiting would hold the very memory that the bound is for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ignite.domain.errors import ResourceExhausted
from ignite.domain.identity import Principal


class CallsUnderWay:
    """Counts calls by caller; belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[tuple[str, str], int] = {}

    @contextmanager
    def one_of(self, principal: Principal) -> Iterator[None]:
        """Count a call while it is under way; raises as `begin` does."""
        self.begin(principal)
        try:
            yield
        finally:
            self.end(principal)

    def begin(self, principal: Principal) -> None:
        """Count a call until its `end`; raises ResourceExhausted at the bound."""
        caller = (principal.organization.id, principal.subject)
        under_way = self._calls.get(caller, 0)
        if under_way >= self._most:
            raise ResourceExhausted(
                f"at most {self._most} calls of one caller at once",
                reason="TooManyCalls",
                details={"calls_per_caller": str(self._most), "retry_after_secs": "1"},
            )
        self._calls[caller] = under_way + 1

    def end(self, principal: Principal) -> None:
        """Count a call that has begun out."""
        caller = (principal.organization.id, principal.subject)
        if self._calls[caller] > 1:
            self._calls[caller] -= 1
        else:
            del self._calls[caller]
