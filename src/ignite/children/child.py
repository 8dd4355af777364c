"""Keeps one process running: probe, restart with back-off, log, stop."""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ignite.children.process import ChildSpec, Process
from ignite.telemetry.childlog import LineSplitter, RotatingLog

logger = logging.getLogger(__name__)

_LAST_LINES = 20
_PIPE_GRACE_SECS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before the next start; a child that was up `stable_secs` starts afresh."""

    first_secs: float = 0.2
    factor: float = 2.0
    most_secs: float = 15.0
    stable_secs: float = 30.0
    first_attempts: int = 3

    def delay(self, failures: int) -> float:
        """Return the wait after `failures` failures in a row, with jitter of a quarter."""
        exponent = min(max(failures - 1, 0), 30)
        wait = min(self.first_secs * self.factor**exponent, self.most_secs)
        return wait * random.uniform(0.75, 1.25)  # noqa: S311 - spreads restarts, guards nothing


class ChildFailed(Exception):
    """A child never served; the text ends with the last lines it wrote."""

    def __init__(self, name: str, why: str, lines: tuple[str, ...]) -> None:
        tail = "".join(f"\n  {line}" for line in lines)
        super().__init__(f"{name} {why}{tail}")
        self.name = name
        self.lines = lines


StateHook = Callable[[str, bool], None]
LineHook = Callable[[str, str], None]


class Child:
    """A lifecycle component that keeps one process running.

    `on_state` is called with (name, up) at every change, `on_line` with (name, line) for every line
    the process writes. Before the child has served once, failing `backoff.first_attempts` times
    raises ChildFailed: then it is wrong, not unlucky. After that it is restarted for ever.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_state: StateHook = lambda _name, _up: None,
        on_line: LineHook = lambda _name, _line: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._spec = spec
        self._on_state = on_state
        self._on_line = on_line
        self._backoff = backoff or Backoff()
        self._process: Process | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._log = RotatingLog(
            spec.log_path, rotate_bytes=spec.log_rotate_bytes, keep=spec.log_rotate_count
        )
        self._is_up = False
        self.starts = 0

    @property
    def name(self) -> str:
        """The spec's name."""
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """Return the process's id while there is one."""
        return self._process.pid if self._process else None

    @property
    def is_up(self) -> bool:
        """Tell whether the process runs and has passed its probe."""
        return self._is_up

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the process running until cancelled."""
        failures = 0
        has_served = False
        loop = asyncio.get_running_loop()
        try:
            while True:
                since = loop.time()
                why, served = await self._one_life(ready)
                has_served = has_served or served
                stable = served and loop.time() - since >= self._backoff.stable_secs
                failures = 1 if stable else failures + 1
                if not has_served and failures >= self._backoff.first_attempts:
                    raise ChildFailed(self.name, why, tuple(self._lines))
                delay = self._backoff.delay(failures)
                logger.warning(
                    "child will be restarted",
                    extra={"child": self.name, "why": why, "delay_secs": round(delay, 3)},
                )
                await asyncio.sleep(delay)
        finally:
            self._log.close()

    async def _one_life(self, ready: Callable[[], None]) -> tuple[str, bool]:
        """Start the process and stay until it ends; return why it did and whether it served."""
        try:
            await self._spec.prepare()
        except OSError as error:
            return f"could not be prepared: {error}", False
        self.starts += 1
        try:
            process = Process(self._spec)
        except OSError as error:
            return f"could not be started: {error.strerror}: {error.filename}", False
        self._process = process
        pump = asyncio.ensure_future(self._pump(process))
        served = False
        late = False
        try:
            served = await self._until_served(process)
            late = not served and not process.has_ended
            if served:
                self._set_up(True)
                ready()
                await process.ended()
        finally:
            self._set_up(False)
            await process.stop(self._spec.stop_signal, self._spec.stop_grace_secs)
            await _finish(pump)
            self._process = None
        if late:
            return f"did not serve within {self._spec.start_timeout_secs:g} s", False
        return process.outcome, served

    async def _until_served(self, process: Process) -> bool:
        """Probe until it passes, the process ends or the time is over."""
        pause = 0.01
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._spec.start_timeout_secs):
                while not process.has_ended:
                    with contextlib.suppress(OSError):
                        if await self._spec.probe():
                            return not process.has_ended
                    await process.ended_within(pause)
                    pause = min(pause * 1.5, 0.25)
        return False

    async def _pump(self, process: Process) -> None:
        """Move what the process writes into the log and to `on_line`, until it closes the pipe."""
        lines = LineSplitter()
        try:
            while data := await process.read():
                self._log.write(data)
                self._take(lines.feed(data))
        finally:
            self._take(lines.rest())
            process.close_pipe()

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self._lines.append(line)
            self._on_line(self.name, line)

    def _set_up(self, up: bool) -> None:
        if up == self._is_up:
            return
        self._is_up = up
        logger.info("child is up" if up else "child is down", extra={"child": self.name})
        self._on_state(self.name, up)


async def _finish(pump: "asyncio.Future[None]") -> None:
    """Let the pump read what is left; a grandchild that keeps the pipe open does not hold us."""
    await asyncio.wait({pump}, timeout=_PIPE_GRACE_SECS)
    pump.cancel()
    await asyncio.wait({pump})
    if not pump.cancelled() and (error := pump.exception()):
        raise error
