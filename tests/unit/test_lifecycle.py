"""Tiers start in order, stop in reverse, and a failure takes everything down."""

import asyncio
from collections.abc import Callable

import pytest

from ignite.lifecycle import Component, ComponentEnded, Together, supervise


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


def together(journal: list[str], *rows: tuple[str, ...], **fails: str) -> Together:
    return Together(*tiers(journal, *rows, **fails))


class TestTogether:
    async def test_all_start_at_once_and_stop_in_order(self) -> None:
        journal: list[str] = []
        stop = asyncio.Event()
        await supervise([[together(journal, ("a",), ("b",), ("c",))]], on_ready=stop.set, stop=stop)
        assert journal == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]

    async def test_a_group_has_stopped_before_the_next_is_told_to(self) -> None:
        journal: list[str] = []

        class Slow(Recorder):
            async def run(self, ready: Callable[[], None]) -> None:
                try:
                    await super().run(ready)
                finally:
                    await asyncio.sleep(0)
                    journal.append("slow is done")

        stop = asyncio.Event()
        both = Together([Recorder("a", journal)], [Slow("b", journal)])
        await supervise([[both]], on_ready=stop.set, stop=stop)
        assert journal[-3:] == ["stop b", "slow is done", "stop a"]

    async def test_is_ready_when_the_last_one_is_and_names_the_late(self) -> None:
        journal: list[str] = []
        late = together(journal, ("a",), ("b",), b="never")
        with pytest.raises(TimeoutError, match=r"\['b'\]"):
            await supervise([[late]], start_timeout_secs=0.05)
        assert "stop a" in journal

    async def test_one_that_fails_takes_the_others_down(self) -> None:
        journal: list[str] = []
        with pytest.raises(ValueError, match="b"):
            await supervise([[together(journal, ("a",), ("b",), b="after")]])
        assert journal[-1] == "stop a"

    async def test_one_that_ends_on_its_own_is_a_failure(self) -> None:
        journal: list[str] = []
        with pytest.raises(ComponentEnded, match="b"):
            await supervise([[together(journal, ("a",), ("b",), b="returns")]])
        assert journal[-1] == "stop a"
