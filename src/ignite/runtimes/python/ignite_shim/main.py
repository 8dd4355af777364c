"""Start and end of the process: import the app, listen, drain.

Exit codes: 0 drained after SIGTERM, 3 the app's import failed, 4 the app has no handler, 5 a
handler outlived its deadline and the replica has to be replaced.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import faulthandler
import gc
import importlib
import inspect
import logging
import os
import signal
import sys
import traceback

from .config import Config
from .connections import Connection
from .replica import Replica

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

logger = logging.getLogger("ignite")

EXIT_IMPORT_FAILED = 3
EXIT_NO_HANDLER = 4

BACKLOG = 1024
LAST_LOOKS = 5
FLUSH_SECS = 5.0
TASKS_SECS = 1.0


def main() -> NoReturn:
    """Run the replica until it has drained."""
    config = Config(os.environ)  # noqa: TID251 - a process of its own, not the server's
    tell_ready = _telling(os.environ.pop("IGNITE_READY_FD", ""))  # noqa: TID251 - see above
    _settle()
    # Before the import: on old interpreters a module-level lock binds the loop that is current.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    handler = _import_handler(config.app_dir)
    if not logging.getLogger().handlers:
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
        )
    gc.freeze()
    gc.enable()
    replica = Replica(config, loop, contextvars.copy_context(), handler, _awaits(handler))
    code = loop.run_until_complete(_serve(replica, tell_ready))
    atexit._run_exitfuncs()  # noqa: SLF001 - what an ordinary exit runs, without its joins
    _leave(code)


def _settle() -> None:
    """Make the process fit for an app: logs line by line, crashes with a trace."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    sys.dont_write_bytecode = True


def _telling(descriptor: str) -> Callable[[], None]:
    """Return what tells the spawner that the replica serves, by a pipe of its."""
    if not descriptor:
        return lambda: None
    number = int(descriptor)
    os.set_inheritable(number, False)
    about = os.fstat(number)

    def tell() -> None:
        # The app may have closed it, and then the number may be another file's. We are asked then.
        with contextlib.suppress(OSError):
            now = os.fstat(number)
            if (now.st_dev, now.st_ino) == (about.st_dev, about.st_ino):
                os.write(number, b"1")
                os.close(number)

    return tell


def _import_handler(app_dir: str) -> Any:
    if not os.path.isfile(os.path.join(app_dir, "handler.py")):
        _fail(EXIT_NO_HANDLER, "the app has no handler.py at its root")
    sys.path[0:0] = _import_paths(app_dir)
    sys.argv = [os.path.join(app_dir, "handler.py")]
    try:
        module = importlib.import_module("handler")
    except BaseException as error:  # noqa: BLE001 - also SystemExit: an app does not end us
        trace = error.__traceback__
        while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        sys.stderr.write("".join(traceback.format_exception(type(error), error, trace)))
        _fail(EXIT_IMPORT_FAILED, f"handler.py could not be imported{_hint(app_dir)}")
    handler = getattr(module, "handler", None)
    if not callable(handler):
        _fail(EXIT_NO_HANDLER, "handler.py has no function named handler")
    return handler


def app_paths(environ: Mapping[str, str]) -> list[str]:
    """Return where modules of the app are looked for, before those of the interpreter."""
    return _import_paths(Config(environ).app_dir)


def _import_paths(app_dir: str) -> list[str]:
    return [app_dir, os.path.join(app_dir, ".deps")]


def _hint(app_dir: str) -> str:
    """Return what explains a failed import when packages were made for another Python."""
    ours = sys.implementation.cache_tag
    try:
        names = os.listdir(os.path.join(app_dir, "__pycache__"))
    except OSError:
        return ""
    tags = sorted(name.split(".")[1] for name in names if name.startswith("handler."))
    if not tags or ours in tags:
        return ""
    return f"; it was compiled for {tags[0]} and runs on {ours}"


def _is_machinery(filename: str) -> bool:
    folders = (os.path.dirname(__file__), os.path.dirname(importlib.__file__))
    return filename.startswith("<frozen importlib") or os.path.dirname(filename) in folders


def _awaits(handler: Any) -> bool:
    """Tell whether calling it only makes a coroutine or an async generator."""
    for candidate in (handler, type(handler).__call__):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            return True
    return False


async def _serve(replica: Replica, tell_ready: Callable[[], None]) -> int:
    loop = replica.loop
    path = replica.config.socket
    # Bound beside its name and moved there: whoever sees the socket can connect to it.
    early = path + "~"
    server = await loop.create_unix_server(lambda: Connection(replica), early, backlog=BACKLOG)
    os.chmod(early, 0o666)  # noqa: S103 - the folder says who may come
    os.replace(early, path)
    loop.add_signal_handler(signal.SIGTERM, replica.drain)
    loop.add_signal_handler(signal.SIGINT, replica.drain)
    tell_ready()
    while True:
        code = await replica.ended
        # What reached the socket at the last moment is still served.
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(0)
        replica.reopen()
        if replica.ended.done():
            break
    server.close()
    await _flush(replica)
    await _cancel_tasks()
    return code


async def _flush(replica: Replica) -> None:
    """Close every connection, each once its last answer is written."""
    for connection in list(replica.connections):
        connection.close()
    if replica.connections:
        try:
            await asyncio.wait_for(replica.closed.wait(), FLUSH_SECS)
        except asyncio.TimeoutError:  # noqa: UP041 - two classes before Python 3.11
            logger.warning("a client did not read its last answer in time")


async def _cancel_tasks() -> None:
    """Give the app's own tasks a moment for their `finally`."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=TASKS_SECS)


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"ignite: {message}\n")
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End without waiting for the app's threads: a stuck one would wait for ever."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
