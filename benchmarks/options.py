"""What a person may set of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how big. The defaults keep a whole run within six minutes on two cores."""

    rounds: int = 9
    secs: float = 0.5
    apps: int = 10_000
    connections: int = 32
    burst: int = 100
    generator: str = "auto"
