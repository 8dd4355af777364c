"""From zero: one app, a thousand requests for one app, a hundred apps at once.

Every sample is the first request that an app ever gets from this server, so nothing of it is warm
but the files. Beside it: the same interpreter with a small asyncio server, started in a control
group with the same CPU quota, and timed in the same way, from outside, to the first byte. An app
that imports hundreds of modules stands beside an interpreter that imports them from its artifact.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.bare_python import BarePython, bare_python
from benchmarks.fqdn import APP, ECHO, warm_up
from benchmarks.heavy import MODULES, PACKAGE, deploy_heavy
from benchmarks.load import Spec, generate
from benchmarks.options import Options
from benchmarks.processes import Meter, cpu_us
from benchmarks.report import Report
from benchmarks.rounds import percentiles
from benchmarks.server import BenchServer, bench_server

SAMPLES_A_ROUND = 3
HEAVY_SAMPLES = 16
BURST_REQUESTS = 1000
TIER = "small"
MILLICORES = 250
ANSWER_SECS = 60.0
WAYS: Mapping[str, Mapping[str, str]] = {
    "by the pool": {},
    "by a fork": {"IGNITE__RUNTIME__WARM_POOL_SIZE": "0"},
    "by exec": {"IGNITE__RUNTIME__FORK_SERVER": "false", "IGNITE__RUNTIME__WARM_POOL_SIZE": "0"},
}
TARGETS = {"by the pool": "≤ 0.2", "by a fork": "≤ 1.2", "by exec": "≤ 1.2"}
PARTS = ("spawner", "controllers", "gateway", "envoy", "postgres")


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="coldstart")
    samples = SAMPLES_A_ROUND * options.rounds
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(_server(environment, samples, options.burst))
            for name, environment in WAYS.items()
        }
        usual = next(iter(servers.values()))
        interpreter = os.readlink(f"/proc/{usual.roles['replica'][0]}/exe")
        with bare_python(interpreter, MILLICORES) as bare:
            if not bare.has_quota:
                report.notes.append("no CPU control group here: the baseline has no quota")
            _one_by_one(report, servers, bare, samples)
            _heavy(report, servers, bare, min(samples, HEAVY_SAMPLES))
        for server in list(servers.values())[1:]:
            server.stop()
        _thousand(report, usual)
        took = _burst(report, usual, options.burst)
    # One group that has the quotas of all of them together.
    with bare_python(interpreter, options.burst * MILLICORES) as bare:
        report.compare(
            f"{options.burst} apps from zero to as many bare interpreters",
            took,
            max(bare.cold_starts(options.burst)),
            unit="s",
        )
    report.notes.append(f"tier {TIER}: {MILLICORES} millicores, for both sides")
    report.notes.append("CPU of a sandbox counts what was alive at the end, from its start on")
    return report


@contextmanager
def _server(environment: Mapping[str, str], samples: int, burst: int) -> Iterator[BenchServer]:
    """A server with sleeping apps that never ran, and one that did."""
    with bench_server(**environment) as server:
        server.start()
        server.deploy(APP, ECHO, "--tier", TIER)
        server.register_sleeping(APP, samples, prefix="one")
        server.register_sleeping(APP, 1, prefix="thousand")
        server.register_sleeping(APP, burst, prefix="burst")
        deploy_heavy(server, PACKAGE, "--tier", TIER)
        server.register_sleeping(PACKAGE, samples, prefix="many")
        server.stop()
        server.start()
        warm_up(server)
        yield server


def _one_by_one(
    report: Report, servers: Mapping[str, BenchServer], bare: BarePython, samples: int
) -> None:
    before = {name: _sandboxed(server) for name, server in servers.items()}
    meters = {
        name: Meter({part: server.roles[part] for part in PARTS})
        for name, server in servers.items()
    }
    _alternate(report, "cold start", servers, "one", bare, None, samples, TARGETS)
    for name, server in servers.items():
        spent = meters[name].stop()
        born = _sandboxed(server) - before[name]
        report.compare(
            f"CPU in the sandbox to the bare interpreter's, {name}",
            sum(cpu_us(pid) for pid in born) / samples / 1e3,
            sum(bare.cpu_us) / len(bare.cpu_us) / 1e3,
            unit="ms",
        )
        for part, used in spent.cpu_us.items():
            report.number(f"CPU of {part} a cold start, {name}", used / samples / 1e3, "ms")


def _heavy(
    report: Report, servers: Mapping[str, BenchServer], bare: BarePython, samples: int
) -> None:
    """The same of an app with many modules; all of it is files that have been read before."""
    artifacts = next(iter(servers.values())).layout.artifacts
    artifact = next(artifacts.glob(f"*/*/{PACKAGE}")).parent
    what = f"cold start with {MODULES} modules to import"
    _alternate(report, what, servers, "many", bare, artifact, samples, {})


def _alternate(
    report: Report,
    what: str,
    servers: Mapping[str, BenchServer],
    prefix: str,
    bare: BarePython,
    artifact: Path | None,
    samples: int,
    targets: Mapping[str, str],
) -> None:
    ours: dict[str, list[float]] = {name: [] for name in servers}
    theirs: list[float] = []
    for number in range(samples):
        for name, server in servers.items():
            ours[name].append(cold_request(server, f"{prefix}-{number}"))
        theirs += bare.cold_starts(1, app=artifact)
    floor = percentiles(theirs)
    for name in servers:
        found = percentiles(ours[name])
        for point in ("p50", "p95"):
            report.compare(
                f"{what}, {name}, {point} of {samples} apps",
                found[point] * 1e3,
                floor[point] * 1e3,
                unit="ms",
                target=targets.get(name, ""),
            )


def _sandboxed(server: BenchServer) -> set[int]:
    roles = server.roles
    return set(roles["replica"] + roles["sandbox"])


def cold_request(server: BenchServer, app: str) -> float:
    """Send an app its first request; return the seconds to the first byte of a good answer."""
    head = server.head(app)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=ANSWER_SECS) as wire:
        wire.sendall(head)
        answer = wire.recv(65_536)
    took = time.perf_counter() - began
    if b" 200 " not in answer[:16] or b"x-ignite-cold-start: true" not in answer:
        raise RuntimeError(f"not a cold start: {answer[:300]!r}")
    return took


def _thousand(report: Report, server: BenchServer) -> None:
    spec = Spec(
        target=f"127.0.0.1:{server.http_port}",
        requests=(server.head("thousand-0"),),
        connections=BURST_REQUESTS,
        total=BURST_REQUESTS,
        secs=ANSWER_SECS,
    )
    cold, warm = generate(spec), generate(spec)
    what = f"{BURST_REQUESTS:,} requests at once on one cold app"
    report.compare(f"{what}, to the same when warm", cold.secs, warm.secs, unit="s")
    report.number(f"{what}: errors", cold.errors, target="0")
    report.number(f"{what}: slowest answer", cold.latency_us["max"] / 1e6, "s")
    if cold.errors or warm.errors:
        report.notes.append(f"cold {dict(cold.detail)}, warm {dict(warm.detail)}")


def _burst(report: Report, server: BenchServer, apps: int) -> float:
    before = _sandboxed(server)
    meter = Meter({part: server.roles[part] for part in PARTS})
    load = generate(
        Spec(
            target=f"127.0.0.1:{server.http_port}",
            requests=tuple(server.head(f"burst-{number}") for number in range(apps)),
            connections=apps,
            total=apps,
            secs=ANSWER_SECS,
        )
    )
    spent = meter.stop()
    born = _sandboxed(server) - before
    what = f"{apps} apps from zero at once"
    report.number(f"{what}: all answered after", load.secs, "s", target="≤ 3")
    report.number(f"{what}: p50", load.latency_us["p50"] / 1e6, "s")
    report.number(f"{what}: errors", load.errors, target="0")
    for part, used in spent.cpu_us.items():
        report.number(f"{what}: CPU of {part} each", used / apps / 1e3, "ms")
    inside = sum(cpu_us(pid) for pid in born)
    report.number(f"{what}: CPU in the sandbox each", inside / apps / 1e3, "ms")
    if load.errors:
        report.notes.append(f"{what}: {dict(load.detail)}")
    return load.secs
