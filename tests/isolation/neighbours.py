"""Another tenant's app that is called without a pause while somebody is under attack."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

# Answers what no other app would: three times the number it is asked for.
CODE = """
    def handler(body, context):
        return str(int(body) * 3)
"""
WAIT_SECS = 60.0
_PAUSE_SECS = 0.002


class Neighbour:
    """Calls an app in a loop of its own; every answer has to be right."""

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask
        self._ended = threading.Event()
        self._more = threading.Condition()
        self._answers = 0
        self._wrong: list[str] = []
        self._thread = threading.Thread(target=self._call, name="neighbour", daemon=True)

    def is_served(self, more: int = 20) -> None:
        """Return when so many more calls have been answered, begun and ended from now on."""
        with self._more:
            # One may be under way that began before.
            wanted = self._answers + more + 1
            came = self._more.wait_for(
                lambda: self._wrong or self._answers >= wanted, timeout=WAIT_SECS
            )
            assert not self._wrong, self._wrong
            assert came, f"{wanted - self._answers} of {more} answers did not come"

    @contextlib.contextmanager
    def called(self) -> Iterator["Neighbour"]:
        """Call it until the block ends, which fails where any answer was wrong."""
        self._thread.start()
        try:
            self.is_served()
            yield self
            self.is_served()
        finally:
            self._ended.set()
            self._thread.join(WAIT_SECS)
        assert not self._thread.is_alive()
        assert not self._wrong, self._wrong

    def _call(self) -> None:
        number = 0
        while not self._ended.wait(_PAUSE_SECS):
            number += 1
            wrong = ""
            try:
                answer = self._ask(str(number).encode())
                if answer != str(number * 3).encode():
                    wrong = f"{number}: {answer[:500]!r}"
            except OSError as error:
                wrong = f"{number}: {error!r}"
            with self._more:
                self._answers += 1
                if wrong:
                    self._wrong.append(wrong)
                self._more.notify_all()
            if wrong:
                return


def wait_until(what: str, is_so: Callable[[], object]) -> None:
    """Return once it is so; fails naming `what`."""
    ends = time.monotonic() + WAIT_SECS
    while not is_so():
        assert time.monotonic() < ends, f"not so in {WAIT_SECS} s: {what}"
        time.sleep(0.05)
