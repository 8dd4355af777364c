"""A server with ten thousand sleeping apps, beside one with a single app."""

import socket
import statistics
import time
from collections.abc import Iterable

from benchmarks.fqdn import APP, ECHO, FLAGS, warm_up
from benchmarks.load import Spec, generate
from benchmarks.measure import round_of
from benchmarks.options import Options
from benchmarks.processes import Meter, memory_of
from benchmarks.report import Report
from benchmarks.rounds import Side, alternate
from benchmarks.server import BenchServer, bench_server
from ignite.v1 import ignite_compute_pb2 as pb

STARTS = 2
# The gateway takes its time to write a large table to disk after the warm-up.
SETTLE_SECS = 10.0
IDLE_SECS = 4.0
CHANGES = 6
EFFECT_SECS = 10.0
SLOTS = 4


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="scale")
    many = f"{options.apps:,} apps"
    with bench_server() as small, bench_server() as full:
        for server in (small, full):
            server.start()
            server.deploy(APP, ECHO, *FLAGS)
        full.register_sleeping(APP, options.apps)
        starts: dict[str, list[float]] = {"small": [], "full": []}
        for _ in range(STARTS):
            for name, server in (("small", small), ("full", full)):
                server.stop()
                starts[name].append(server.start())
        report.compare(
            f"start with {many} to 1 app",
            statistics.median(starts["full"]),
            statistics.median(starts["small"]),
            unit="s",
        )
        warm_up(small)
        warm_up(full)
        time.sleep(SETTLE_SECS)
        _idle(report, small, full, many)
        _memory(report, small, full, many)
        _change(report, small, full, many)
        _get_app(report, small, full, options)
    return report


def _idle(report: Report, small: BenchServer, full: BenchServer, many: str) -> None:
    meters = [Meter(server.roles) for server in (small, full)]
    time.sleep(IDLE_SECS)
    spent = [meter.stop() for meter in meters]
    shares = [100 * sum(one.cpu_us.values()) / 1e6 / one.secs for one in spent]
    report.compare(
        f"idle CPU with {many} to 1 app, of a core", shares[1], shares[0], unit="%", target="< 2 %"
    )
    for part, used in sorted(spent[1].cpu_us.items(), key=lambda item: -item[1])[:4]:
        report.number(
            f"idle CPU of {part} with {many}", 100 * used / 1e6 / spent[1].secs, "% of a core"
        )


def _memory(report: Report, small: BenchServer, full: BenchServer, many: str) -> None:
    few, lots = small.roles, full.roles
    for part in lots:
        ours, theirs = memory_of(lots[part]), memory_of(few.get(part, ()))
        if theirs.pss_kb and part not in ("sandbox", "replica"):
            report.compare(
                f"PSS of {part}, {many} to 1", ours.pss_kb / 1024, theirs.pss_kb / 1024, unit="MiB"
            )


def _change(report: Report, small: BenchServer, full: BenchServer, many: str) -> None:
    taken: dict[str, list[float]] = {"small": [], "full": []}
    for number in range(CHANGES):
        for name, server in (("small", small), ("full", full)):
            taken[name].append(_effect_secs(server, is_open=number % 2 == 0))
    report.compare(
        f"a config change's way to the gateway, {many} to 1 app",
        statistics.median(taken["full"]) * 1e3,
        statistics.median(taken["small"]) * 1e3,
        unit="ms",
        target="≤ 50 ms",
    )


def _effect_secs(server: BenchServer, *, is_open: bool) -> float:
    """Let anyone in, or no longer; return the seconds from the RPC's answer to the effect."""
    host = server.host_of(APP)
    request = f"GET /bench HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    wanted = b"200" if is_open else b"401"
    with (
        server.compute() as compute,
        socket.create_connection(("127.0.0.1", server.http_port), timeout=5) as wire,
    ):
        compute.UpdateAppConfig(
            pb.UpdateAppConfigRequest(
                organization_name=server.org, app_name=APP, allow_unauthenticated=is_open
            ),
            metadata=server.metadata,
        )
        began = time.perf_counter()
        while time.perf_counter() - began < EFFECT_SECS:
            wire.sendall(request)
            if wire.recv(65_536)[9:12] == wanted:
                return time.perf_counter() - began
            time.sleep(0.001)
    raise RuntimeError(f"the change had no effect in {EFFECT_SECS} s")


def _get_app(report: Report, small: BenchServer, full: BenchServer, options: Options) -> None:
    step = max(1, options.apps // 1000)
    names = [f"sleep-{number}" for number in range(0, options.apps, step)]
    one, many = "GetApp, 1 app", f"GetApp, {options.apps:,} apps"
    found = alternate(
        [_side(one, small, [APP], options), _side(many, full, names, options)], options.rounds
    )
    report.sides += found.values()
    report.compare(
        f"p99 of GetApp with {options.apps:,} apps to 1",
        found[many].latency_us["p99"] / 1e3,
        found[one].latency_us["p99"] / 1e3,
        unit="ms",
    )


def _side(name: str, server: BenchServer, apps: Iterable[str], options: Options) -> Side:
    requests = tuple(
        pb.GetAppRequest(organization_name=server.org, app_name=app).SerializeToString()
        for app in apps
    )
    roles = {part: server.roles[part] for part in ("api", "postgres", "controllers")}
    return Side(
        name=name,
        run=lambda: round_of(
            roles,
            lambda: generate(
                Spec(
                    target=server.connection["grpc"],
                    requests=requests,
                    method="/dodil.ignite.v1.ComputeService/GetApp",
                    authorization=server.metadata[0][1],
                    connections=SLOTS,
                    secs=options.secs,
                    ok=(0,),
                )
            ),
        ),
    )
