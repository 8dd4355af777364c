"""What a long command is doing: steps with their time, live on a terminal, plain lines elsewhere.

All of it goes to stderr; stdout carries the result alone.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TICK_SECS = 0.1


class Step:
    """One thing under way. Other threads draw it, so its text is behind the lock."""

    def __init__(self, name: str, out: TextIO, *, live: bool) -> None:
        self.name = name
        self.lines = 0
        self._out = out
        self._live = live
        self._began = time.monotonic()
        self._note = ""
        self._lock = threading.Lock()
        self._over = threading.Event()

    def line(self, text: str) -> None:
        """Print a line that belongs to the step, such as one of a compile log."""
        with self._lock:
            self.lines += 1
            self._erase()
            self._out.write(f"    {text}\n")
            self._out.flush()

    def note(self, text: str) -> None:
        """Say behind the step's name how it went or where it is."""
        with self._lock:
            self._note = f" {text}"

    def draw(self) -> None:
        """Draw until the step is over; the body of the drawing thread."""
        turn = 0
        while not self._over.wait(TICK_SECS):
            with self._lock:
                self._erase()
                mark = FRAMES[turn % len(FRAMES)]
                self._out.write(f"{mark} {self.name}{self._note}  {self._elapsed()}")
                self._out.flush()
            turn += 1

    def stop(self) -> None:
        """End the drawing."""
        self._over.set()

    def finish(self, mark: str) -> None:
        """Print the step's last line."""
        with self._lock:
            self._erase()
            self._out.write(f"{mark} {self.name}{self._note}  {self._elapsed()}\n")
            self._out.flush()

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:.1f}s"

    def _erase(self) -> None:
        if self._live:
            self._out.write("\r\x1b[2K")


class Progress:
    """Prints the steps of one command."""

    def __init__(self, out: TextIO | None = None, *, live: bool | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._live = self._out.isatty() if live is None else live

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Show a step while the block runs; a failure in it marks it as failed."""
        step = Step(name, self._out, live=self._live)
        drawing = threading.Thread(target=step.draw, daemon=True) if self._live else None
        if drawing is not None:
            drawing.start()
        mark = "✗"
        try:
            yield step
            mark = "✓"
        finally:
            step.stop()
            if drawing is not None:
                drawing.join()
            step.finish(mark)

    def say(self, text: str) -> None:
        """Print a line beside the steps."""
        self._out.write(f"{text}\n")
        self._out.flush()
