"""Tiers start in order, stop in reverse, and a failure takes everything down."""

import asyncio
from collections.abc import Callable

import pytest

from ignite.lifecycle import Component, ComponentEnded, supervise


class Recorder:
    """A component that writes down what happens to it."""

    def __init__(self, name: str, journal: list[str], *, fail: str = "") -> None:
        self._name = name
        self._journal = journal
        self._fail = fail

    @property
    def name(self) -> str:
        return self._name

    async def run(self, ready: Callable[[], None]) -> None:
        self._journal.append(f"start {self._name}")
        if self._fail == "before":
            raise ValueError(self._name)
        if self._fail == "never":
            await asyncio.Event().wait()
        ready()
        try:
            if self._fail == "after":
                raise ValueError(self._name)
            if self._fail == "returns":
                return
            await asyncio.Event().wait()
        finally:
            self._journal.append(f"stop {self._name}")


def tiers(journal: list[str], *rows: tuple[str, ...], **fails: str) -> list[list[Component]]:
    return [[Recorder(n, journal, fail=fails.get(n, "")) for n in row] for row in rows]


async def test_tiers_start_in_order_and_stop_in_reverse() -> None:
    journal: list[str] = []
    stop = asyncio.Event()
    await supervise(tiers(journal, ("a",), ("b",)), on_ready=stop.set, stop=stop)
    assert journal == ["start a", "start b", "stop b", "stop a"]


async def test_a_failure_before_ready_stops_what_runs_and_starts_no_more() -> None:
    journal: list[str] = []
    with pytest.raises(ValueError, match="b"):
        await supervise(tiers(journal, ("a",), ("b",), ("c",), b="before"))
    assert journal == ["start a", "start b", "stop a"]


async def test_a_component_that_ends_on_its_own_is_a_failure() -> None:
    journal: list[str] = []
    with pytest.raises(ComponentEnded, match="a"):
        await supervise(tiers(journal, ("a",), a="returns"))


async def test_a_failure_while_serving_is_raised_after_the_stop() -> None:
    journal: list[str] = []
    with pytest.raises(ValueError, match="b"):
        await supervise(tiers(journal, ("a",), ("b",), b="after"))
    assert journal[-1] == "stop a"


async def test_a_component_that_is_never_ready_is_named() -> None:
    journal: list[str] = []
    with pytest.raises(TimeoutError, match="slow"):
        await supervise(tiers(journal, ("slow",), slow="never"), start_timeout_secs=0.05)


async def test_a_stop_during_the_start_is_no_failure() -> None:
    journal: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await supervise(tiers(journal, ("slow",), slow="never"), stop=stop)
    assert journal == ["start slow"]
