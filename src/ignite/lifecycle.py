"""Components and how a process runs them: tiers start in order and stop in reverse.

Knows no component. A component ends only by cancellation; one that returns or raises on its own
is a failure that takes the whole process down (the supervisor above restarts it).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Component(Protocol):
    """A part of a process with a life of its own."""

    @property
    def name(self) -> str:
        """A short constant name, for logs."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled. Call `ready` once, when the component serves.

        On cancellation: refuse new work, drain within the component's own grace, clean up, and let
        `CancelledError` out.
        """


class ComponentEnded(Exception):
    """A component returned although nobody asked it to."""


class Together:
    """Components that start at once and stop one group after the other, the last group first.

    For parts that need each other only while they work: waiting for one another would cost time at
    the start, but at the end each has to outlive those that still send it requests. A Component.
    """

    def __init__(self, *groups: Sequence[Component]) -> None:
        self._groups = groups
        self._late = [component.name for group in groups for component in group]

    @property
    def name(self) -> str:
        """Name those that are not ready, for whoever waits for them."""
        return ", ".join(self._late) or "all"

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; raises what the first of them that fails raises."""
        started: list[set[asyncio.Task[None]]] = []
        try:
            started += (
                {asyncio.ensure_future(self._one(component, ready)) for component in group}
                for group in self._groups
            )
            everyone = set().union(*started)
            ended, _ = await asyncio.wait(everyone, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for tasks in reversed(started):
                await _end(tasks)

    async def _one(self, component: Component, ready: Callable[[], None]) -> None:
        def up() -> None:
            if component.name in self._late:
                self._late.remove(component.name)
                if not self._late:
                    ready()

        await component.run(up)
        raise ComponentEnded(component.name)


async def _end(tasks: "set[asyncio.Task[None]]") -> None:
    under_way = {task for task in tasks if not task.done()}
    for task in under_way:
        task.cancel()
    if under_way:
        await asyncio.wait(under_way)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error and task in under_way:
            logger.error("component failed at its end", exc_info=error)


async def supervise(
    tiers: Sequence[Sequence[Component]],
    *,
    on_ready: Callable[[], None] = lambda: None,
    stop: asyncio.Event | None = None,
    start_timeout_secs: float = 120.0,
) -> None:
    """Run `tiers` until `stop` is set or a component fails.

    A tier starts when every component of the tier before it has called `ready`. On the way down
    the last tier is cancelled and awaited first. The first failure is raised after the stop.
    """
    stop = stop or asyncio.Event()
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    started: list[list[asyncio.Task[None]]] = []
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        for tier in tiers:
            if stop.is_set() or failed.done():
                break
            await _start_tier(tier, started, failed, stopping, start_timeout_secs)
        else:
            if not (stop.is_set() or failed.done()):
                on_ready()
                either: set[asyncio.Future[Any]] = {stopping, failed}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        for tasks in reversed(started):
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
    if failed.done():
        raise failed.result()
    failed.cancel()


async def _start_tier(
    tier: Sequence[Component],
    started: list[list[asyncio.Task[None]]],
    failed: "asyncio.Future[BaseException]",
    stopping: "asyncio.Future[Any]",
    start_timeout_secs: float,
) -> None:
    tasks: list[asyncio.Task[None]] = []
    started.append(tasks)
    pending: list[asyncio.Future[None]] = []
    for component in tier:
        up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending.append(up)
        tasks.append(
            asyncio.ensure_future(_run(component, up, failed)),
        )
    everyone = asyncio.ensure_future(_all(pending))
    first: set[asyncio.Future[Any]] = {everyone, failed, stopping}
    await asyncio.wait(
        first,
        timeout=start_timeout_secs,
        return_when=asyncio.FIRST_COMPLETED,
    )
    if not everyone.done():
        everyone.cancel()
        if not (failed.done() or stopping.done()):
            late = [c.name for c, up in zip(tier, pending, strict=True) if not up.done()]
            failed.set_result(TimeoutError(f"not ready in {start_timeout_secs:g} s: {late}"))


async def _all(futures: "Sequence[asyncio.Future[None]]") -> None:
    for future in futures:
        await asyncio.shield(future)


async def _run(
    component: Component, up: "asyncio.Future[None]", failed: "asyncio.Future[BaseException]"
) -> None:
    def ready() -> None:
        if not up.done():
            up.set_result(None)

    try:
        await component.run(ready)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        logger.exception("component failed", extra={"component": component.name})
        if not failed.done():
            failed.set_result(error)
    else:
        if not failed.done():
            failed.set_result(ComponentEnded(component.name))
    finally:
        if not up.done():
            up.cancel()


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
