"""How often logins may fail. Token buckets: one an account, one for all, one for unknown ids.

A turn is taken before the costly check and given back when the secret was right, so that many at
once cannot slip through. Ids that nobody has share a bucket of their own: guessing them blocks no
real account.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ignite.domain.errors import ResourceExhausted

MAX_ACCOUNTS = 10_000
_MINUTE_SECS = 60.0


@dataclass(slots=True)
class _Bucket:
    size: float
    left: float
    at: float

    def refill(self, now: float) -> None:
        gained = (now - self.at) * self.size / _MINUTE_SECS
        self.left = min(self.size, self.left + gained)
        self.at = now

    def wait_secs(self) -> float:
        return max(0.0, (1 - self.left) * _MINUTE_SECS / self.size)


class FailedLogins:
    """Says whether another attempt may be made."""

    def __init__(
        self, per_minute: int, per_minute_total: int, monotonic: Callable[[], float]
    ) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        now = monotonic()
        self._known = _Bucket(per_minute_total, per_minute_total, now)
        self._unknown = _Bucket(per_minute_total, per_minute_total, now)
        self._accounts: OrderedDict[str, _Bucket] = OrderedDict()

    def attempt(self, account_id: str | None) -> None:
        """Take a turn; None for an id that nobody has. Raises ResourceExhausted."""
        buckets = self._buckets(account_id)
        now = self._monotonic()
        for bucket in buckets:
            bucket.refill(now)
        wait = max(bucket.wait_secs() for bucket in buckets)
        if wait > 0:
            raise ResourceExhausted(
                "too many failed logins",
                reason="TooManyFailedLogins",
                details={"retry_after_secs": str(math.ceil(wait))},
            )
        for bucket in buckets:
            bucket.left -= 1

    def succeeded(self, account_id: str) -> None:
        """Give the turn back."""
        for bucket in self._buckets(account_id):
            bucket.left = min(bucket.size, bucket.left + 1)

    def _buckets(self, account_id: str | None) -> Sequence[_Bucket]:
        if account_id is None:
            return (self._unknown,)
        own = self._accounts.get(account_id)
        if own is None:
            own = _Bucket(self._per_minute, self._per_minute, self._monotonic())
            self._accounts[account_id] = own
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(account_id)
        return (own, self._known)
