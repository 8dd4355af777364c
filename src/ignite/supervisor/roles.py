"""The children of the supervisor that are roles of ours: `python -m ignite <role>`."""

import sys

from ignite.children import ChildSpec
from ignite.layout import Layout
from ignite.privileges import Owner
from ignite.settings import Settings
from ignite.supervisor import readiness

# One arena for malloc: these processes are single-threaded where memory matters.
_BASE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}


def role_child(role: str, settings: Settings, layout: Layout, owner: Owner | None) -> ChildSpec:
    """Return the child that runs `role`; `owner` None keeps the supervisor's own user."""
    return ChildSpec(
        name=role,
        argv=(sys.executable, "-m", "ignite", role),
        env={**_BASE, "HOME": str(layout.data), **settings.environment()},
        prepare=readiness.prepare(layout, role),
        probe=readiness.probe(layout, role),
        log_path=layout.logs / f"{role}.log",
        uid=owner.uid if owner else None,
        gid=owner.gid if owner else None,
        stop_grace_secs=settings.server.drain_grace_secs + 5,
        start_timeout_secs=settings.server.start_timeout_secs,
        log_rotate_bytes=settings.log.rotate_bytes,
        log_rotate_count=settings.log.rotate_count,
    )
