"""From zero: one app, a thousand requests for one app, a hundred apps at once.

Every sample is the first request that an app ever gets from this server, so nothing of it is warm
but the files. Beside it: the same interpreter with a small asyncio server, started in a control
group with the same CPU quota, and timed in the same way, from outside, to the first byte.
"""

import socket
import time

from benchmarks.bare_python import BarePython, bare_python
from benchmarks.fqdn import APP, ECHO, warm_up
from benchmarks.load import Spec, generate
from benchmarks.options import Options
from benchmarks.processes import Meter, command_of, cpu_us
from benchmarks.report import Report
from benchmarks.rounds import percentiles
from benchmarks.server import BenchServer, bench_server

SAMPLES_A_ROUND = 8
BURST_REQUESTS = 1000
TIER = "small"
MILLICORES = 250
ANSWER_SECS = 60.0
PARTS = ("spawner", "controllers", "gateway", "envoy", "postgres")


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="coldstart")
    samples = SAMPLES_A_ROUND * options.rounds
    with bench_server() as server:
        server.start()
        server.deploy(APP, ECHO, "--tier", TIER)
        server.register_sleeping(APP, samples, prefix="one")
        server.register_sleeping(APP, 1, prefix="thousand")
        server.register_sleeping(APP, options.burst, prefix="burst")
        server.stop()
        server.start()
        warm_up(server)
        interpreter = command_of(server.roles["replica"][0]).split()[0]
        with bare_python(interpreter, MILLICORES) as bare:
            if not bare.has_quota:
                report.notes.append("no CPU control group here: the baseline has no quota")
            _one_by_one(report, server, bare, samples)
            _thousand(report, server)
            took = _burst(report, server, options.burst)
        server.stop()
        # One group that has the quotas of all of them together.
        with bare_python(interpreter, options.burst * MILLICORES) as bare:
            report.compare(
                f"{options.burst} apps from zero to as many bare interpreters",
                took,
                max(bare.cold_starts(options.burst)),
                unit="s",
            )
    report.notes.append(
        f"tier {TIER}: {MILLICORES} millicores, for both sides; no pool of replicas"
    )
    return report


def _one_by_one(report: Report, server: BenchServer, bare: BarePython, samples: int) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    before = set(server.roles["replica"] + server.roles["sandbox"])
    meter = Meter({part: server.roles[part] for part in PARTS})
    for number in range(samples):
        ours.append(cold_request(server, f"one-{number}"))
        theirs += bare.cold_starts(1)
    spent = meter.stop()
    born = set(server.roles["replica"] + server.roles["sandbox"]) - before
    found, floor = percentiles(ours), percentiles(theirs)
    for name in ("p50", "p95"):
        report.compare(
            f"cold start, {name}, {samples} apps",
            found[name] * 1e3,
            floor[name] * 1e3,
            unit="ms",
            target="≤ 0.2 by a pool, ≤ 1.2 without",
        )
    report.compare(
        "CPU in the sandbox to the bare interpreter's",
        sum(cpu_us(pid) for pid in born) / samples / 1e3,
        sum(bare.cpu_us) / len(bare.cpu_us) / 1e3,
        unit="ms",
    )
    for part, used in spent.cpu_us.items():
        report.number(f"CPU of {part} a cold start", used / samples / 1e3, "ms")


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
    before = set(server.roles["replica"] + server.roles["sandbox"])
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
    born = set(server.roles["replica"] + server.roles["sandbox"]) - before
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
