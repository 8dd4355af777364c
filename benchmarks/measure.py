"""One round: a load, and what the processes on its way took meanwhile."""

from collections.abc import Callable

from benchmarks.processes import Meter, Roles
from benchmarks.rounds import Load, Round


def round_of(roles: Roles, load: Callable[[], Load]) -> Round:
    """Run the load and share the CPU out over its requests."""
    meter = Meter(roles)
    found = load()
    spent = meter.stop()
    count = max(found.requests, 1)
    cpu = {part: value / count for part, value in spent.cpu_us.items()}
    return Round(load=found, cpu_us=cpu | {"generator": found.cpu_us / count})
