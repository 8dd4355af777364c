"""Asking a starting replica whether it serves: `GET <health_path>` over its socket.

Written on the bare stream because it runs many times in the first milliseconds of a cold start, and
because the answer comes from a tenant: nothing of it is kept but the status.
"""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable

_FIRST_PAUSE_SECS = 0.002
_LONGEST_PAUSE_SECS = 0.02
_ANSWER_SECS = 5.0


async def wait_until_ready(told: int, path: str, health_path: str) -> None:
    """Return when the replica says by the pipe `told` that it serves, or answers 2xx.

    Our own runtimes say it, which costs no question. Where the pipe is closed without a word (an
    app may close what it did not open) they are asked as any other.
    """
    if not await _is_told(told):
        await wait_until_healthy(path, health_path)


async def _is_told(told: int) -> bool:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(told, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(told)
    return bool(os.read(told, 1))


async def wait_until_healthy(path: str, health_path: str) -> None:
    """Return when the replica answers 2xx. Asks for ever: the caller sets the bound."""
    await _until(lambda: is_healthy(path, health_path))


async def is_healthy(path: str, health_path: str) -> bool:
    """Ask once; an answer that does not come in time counts as no."""
    # Most questions come before there is a socket, and looking is far cheaper than a refusal.
    if not os.path.exists(path):  # noqa: ASYNC240 - in memory, no disk to wait for
        return False
    try:
        async with asyncio.timeout(_ANSWER_SECS):
            return await _ask(path, health_path)
    except (OSError, TimeoutError, ValueError, asyncio.LimitOverrunError):
        return False


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    pause = _FIRST_PAUSE_SECS
    while not await check():
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECS, pause * 1.5)


async def _ask(path: str, health_path: str) -> bool:
    # We are root and the folder is still the replica's: a link is not followed to another socket.
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            return False
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{place}", limit=4096)
    finally:
        os.close(place)
    try:
        request = f"GET {health_path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        writer.write(request.encode("ascii"))
        words = (await reader.readuntil(b"\r\n")).split(maxsplit=2)
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()
    return len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1][:1] == b"2"
