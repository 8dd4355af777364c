"""Children: the processes the supervisor starts, watches and restarts.

A child gets exactly the environment its spec names, a session of its own and a parent-death signal,
so that nothing of ours leaks in and nothing of it outlives us.
"""

from ignite.children.child import Backoff, Child, ChildFailed
from ignite.children.process import ChildSpec, run_once

__all__ = ["Backoff", "Child", "ChildFailed", "ChildSpec", "run_once"]
