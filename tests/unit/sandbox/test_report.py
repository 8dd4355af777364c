"""What a machine's layers amount to."""

import pytest

from ignite.sandbox.bubblewrap import Tools
from ignite.sandbox.report import Layer, Level, SandboxReport


def made(*missing: str, is_required: bool = False) -> SandboxReport:
    names = ("bubblewrap", "uids", "seccomp", "memory limit", "network")
    layers = tuple(Layer(name=n, is_ok=n not in missing, detail=f"about {n}") for n in names)
    return SandboxReport(layers=layers, tools=Tools(), is_required=is_required)


def test_every_layer_makes_it_full() -> None:
    assert made().level is Level.FULL
    assert made(is_required=True).refusal == ""


def test_a_missing_layer_makes_it_partial_and_code_may_run() -> None:
    found = made("seccomp")
    assert (found.level, found.refusal, found.has_seccomp) == (Level.PARTIAL, "", False)


@pytest.mark.parametrize("layer", ["uids", "seccomp", "memory limit", "network"])
def test_a_missing_layer_refuses_where_isolation_is_required(layer: str) -> None:
    assert made(layer, is_required=True).refusal == f"{layer}: about {layer}"


def test_without_bubblewrap_nothing_runs() -> None:
    found = made("bubblewrap")
    assert found.level is Level.NONE
    assert "bubblewrap" in found.refusal
