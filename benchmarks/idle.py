"""What a server costs that does nothing, and how long it takes to be ready.

Beside it: a bare grpc.aio process with our generated stubs, which is what a Python role could cost
at the least, on this machine in this state.
"""

import statistics
import time

from benchmarks.bare_grpc import bare_grpc
from benchmarks.options import Options
from benchmarks.processes import Memory, Meter, memory_of
from benchmarks.report import Report
from benchmarks.server import bench_server

SECOND_STARTS = 3
SETTLE_SECS = 5.0
IDLE_SECS = 5.0
PYTHON_ROLES = ("supervisor", "spawner", "controllers", "api", "gateway")


def run(options: Options) -> Report:  # noqa: ARG001 - every bench has this form
    """Run the bench."""
    report = Report(bench="idle")
    bare_starts: list[float] = []
    later: list[float] = []
    with bench_server() as server:
        first = server.start()
        for _ in range(SECOND_STARTS):
            server.stop()
            later.append(server.start())
            began = time.monotonic()
            with bare_grpc():
                bare_starts.append(time.monotonic() - began)
        bare_start = statistics.median(bare_starts)
        second = statistics.median(later)
        report.compare("first start to a bare grpc.aio process", first, bare_start, unit="s")
        report.compare(
            "second start to a bare grpc.aio process",
            second,
            bare_start,
            unit="s",
            target="< 3 s on an idle machine",
        )
        time.sleep(SETTLE_SECS)
        meter = Meter(server.roles)
        time.sleep(IDLE_SECS)
        spent = meter.stop()
        with bare_grpc() as bare:
            floor = memory_of([bare.pid])
        memory = {part: memory_of(pids) for part, pids in server.roles.items() if pids}
    _memory(report, memory, floor)
    report.number(
        "idle CPU in all", 100 * sum(spent.cpu_us.values()) / 1e6 / spent.secs, "% of a core", "< 2"
    )
    return report


def _memory(report: Report, memory: dict[str, Memory], floor: Memory) -> None:
    for part, found in memory.items():
        report.number(f"PSS of {part}", found.pss_kb / 1024, "MiB")
        report.number(f"RSS of {part}", found.rss_kb / 1024, "MiB")
    total = sum(found.pss_kb for found in memory.values())
    python = sum(memory[part].pss_kb for part in PYTHON_ROLES)
    report.number("PSS in all", total / 1024, "MiB")
    report.compare(
        f"PSS of the {len(PYTHON_ROLES)} Python processes to as many bare ones",
        python / 1024,
        len(PYTHON_ROLES) * floor.pss_kb / 1024,
        unit="MiB",
    )
