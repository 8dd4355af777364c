"""Metrics on a registry that is passed in: no global registry, so tests and roles stay apart.

The only importer of prometheus_client. Label values come from closed sets, so a label never holds
an app, an id or anything else that a caller chooses.
"""

from collections.abc import Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
Registry = CollectorRegistry

DURATION_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def new_registry(*, process: bool = True) -> Registry:
    """Return an empty registry; `process` adds this process's memory, CPU and file counts."""
    registry = CollectorRegistry(auto_describe=True)
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry


def counter(registry: Registry, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
    """Make `ignite_<name>`; Prometheus' text form adds `_total`."""
    return Counter(f"ignite_{name}", about, labels, registry=registry)


def gauge(registry: Registry, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
    """Make `ignite_<name>`, a value that goes up and down."""
    return Gauge(f"ignite_{name}", about, labels, registry=registry)


def duration(
    registry: Registry,
    name: str,
    about: str,
    labels: Sequence[str] = (),
    *,
    buckets: Sequence[float] = DURATION_BUCKETS,
) -> Histogram:
    """Make `ignite_<name>_seconds`, a histogram; from 1 ms to 1 min unless told otherwise."""
    return Histogram(f"ignite_{name}_seconds", about, labels, registry=registry, buckets=buckets)


def render(registry: Registry) -> bytes:
    """Return all values in Prometheus' text form."""
    return generate_latest(registry)
