"""Counts and times calls. Labels are the method and the code, both closed sets."""

from functools import lru_cache, partial

import grpc

from ignite.rpc.handlers import Context
from ignite.telemetry.metrics import Registry, counter, duration, gauge


class RpcMetrics:
    """The metrics of all gRPC servers of one process; made once a registry."""

    def __init__(self, registry: Registry) -> None:
        labels = ("method", "code")
        self.calls = counter(registry, "rpc_calls", "Finished calls by outcome.", labels)
        self.seconds = duration(registry, "rpc_call", "How long calls took.", ("method",))
        self.running = gauge(registry, "rpc_calls_running", "Calls under way.", ("method",))

    def of(self, method: str) -> "MethodMetrics":
        """Return what counts the calls of one method."""
        return MethodMetrics(self, method)


class MethodMetrics:
    """The metrics of one method: its labels are looked up once, not at every call."""

    def __init__(self, metrics: RpcMetrics, method: str) -> None:
        self._running = metrics.running.labels(method)
        self._seconds = metrics.seconds.labels(method)
        self._calls = lru_cache(maxsize=None)(partial(metrics.calls.labels, method))

    def started(self) -> None:
        """Count a call in."""
        self._running.inc()

    def finished(self, code: str, seconds: float) -> None:
        """Count a call out."""
        self._running.dec()
        self._calls(code).inc()
        self._seconds.observe(seconds)


def code_name(context: Context) -> str:
    """Return the name of the status that a call ended with."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name
