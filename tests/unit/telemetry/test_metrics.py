"""Metrics: nothing global, our prefix, Prometheus' text."""

from ignite.telemetry.metrics import counter, duration, gauge, new_registry, render


def test_registries_are_strangers_and_names_carry_our_prefix() -> None:
    one, other = new_registry(process=False), new_registry(process=False)
    for registry in (one, other):
        counter(registry, "calls", "Calls.", ["code"]).labels("OK").inc()
    gauge(one, "replicas", "Replicas.").set(3)
    duration(one, "call", "Time of a call.").observe(0.003)
    text = render(one).decode()
    assert 'ignite_calls_total{code="OK"} 1.0' in text
    assert "ignite_replicas 3.0" in text
    assert 'ignite_call_seconds_bucket{le="0.005"} 1.0' in text
    assert "ignite_replicas" not in render(other).decode()


def test_process_metrics_are_there_when_asked_for() -> None:
    assert b"process_resident_memory_bytes" in render(new_registry())
