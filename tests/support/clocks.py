"""A clock that moves when told."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Callable like `datetime.now`; starts at a fixed moment."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, 12, tzinfo=UTC)) -> None:
        self.now = start

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        return self.now.timestamp()
