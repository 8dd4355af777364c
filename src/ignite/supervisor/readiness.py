"""How a role tells the supervisor that it serves: a file in the run folder, gone before each start.

A file and not a socket: the role may belong to another user, and an operator can look
at it.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from ignite.layout import Layout


def ready_file(layout: Layout, role: str) -> Path:
    """Return the file that says that `role` serves."""
    return layout.run / f"{role}.ready"


def prepare(layout: Layout, role: str) -> Callable[[], Awaitable[None]]:
    """Return what runs before each start of the role."""

    async def forget() -> None:
        ready_file(layout, role).unlink(missing_ok=True)

    return forget


def probe(layout: Layout, role: str) -> Callable[[], Awaitable[bool]]:
    """Return the probe of the role."""

    async def serves() -> bool:
        return ready_file(layout, role).exists()

    return serves


def announce(layout: Layout, role: str) -> None:
    """Say that this process serves as `role`."""
    ready_file(layout, role).write_text("ready\n")
