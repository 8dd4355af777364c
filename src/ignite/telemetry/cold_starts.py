"""How long starting from nothing takes, measured where it is known.

The spawner knows how long a replica took and by which way it was started; the gateway knows how
long a caller waited for one. Between the two lies everything else: waking, routes, a full machine.
"""

from ignite.telemetry.metrics import Registry, duration

# From a sandbox that waits for its app to an image that has to be fetched.
BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5),
    *(1, 2, 5, 10, 30, 60, 120, 300, 600),
)
_KINDS = {"pool": "pool", "fork": "fork", "bwrap": "bubblewrap"}


class ColdStarts:
    """`ignite_cold_start_seconds`: from the order to start a replica until it serves."""

    def __init__(self, registry: Registry) -> None:
        self._seconds = duration(
            registry,
            "cold_start",
            "From the order to start a replica until it serves.",
            ("kind", "language"),
            buckets=BUCKETS,
        )

    def started(self, way: str, language: str, seconds: float) -> None:
        """Count a replica that serves now; `language` is one that can be run here."""
        self._seconds.labels(_KINDS.get(way, "other"), language).observe(seconds)


class ColdWaits:
    """`ignite_cold_start_wait_seconds`: what a request waited for an app without a replica."""

    def __init__(self, registry: Registry) -> None:
        self._seconds = duration(
            registry,
            "cold_start_wait",
            "How long requests waited for a replica that had to be started.",
            buckets=BUCKETS,
        )

    def waited(self, seconds: float) -> None:
        """Count a request that was held and then served."""
        self._seconds.observe(seconds)
