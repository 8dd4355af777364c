"""Starting and stopping `serve.py` for fixtures."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ignite.layout import Layout

T = TypeVar("T")

SERVE = Path(__file__).with_name("serve.py")
_STOP_SECS = 60


@contextmanager
def embedded(kind: str, options: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Run one embedded server in a folder of its own; yield what it printed."""
    home = Path(tempfile.mkdtemp(prefix=f"ignite-{kind}-"))
    home.chmod(0o711)
    layout = Layout(data=home / "data")
    try:
        with serving(kind, layout.data, options) as answer:
            yield {**answer, "data": str(layout.data)}
    finally:
        shutil.rmtree(layout.run, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def serving(
    kind: str, data: Path, options: dict[str, str] | None = None, *, user: str = "server"
) -> Iterator[dict[str, Any]]:
    """Run one embedded server on `data`, which stays."""
    process = subprocess.Popen(
        [sys.executable, str(SERVE), kind, str(data), json.dumps(options or {}), user],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{kind} did not start:\n{process.stderr.read()}")
        with ThreadPoolExecutor(1) as drain:
            drain.submit(process.stderr.read)
            try:
                yield {**json.loads(line), "supervisor": process.pid}
            finally:
                _stop(process)
    finally:
        _stop(process)
        process.stdout.close()
        process.stderr.close()


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.stdin and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(_STOP_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from a synchronous fixture, away from the tests' event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder other users may pass, with a short path; its run folder goes with it."""
    home = Path(tempfile.mkdtemp(prefix="ignite-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(Layout(data=home / "data").run, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
