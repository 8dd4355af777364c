"""The way of a request to a warm app by its host name.

Beside it: a bare Envoy in front of the very same replica, and the replica alone. The bare Envoy is
loaded by the same generator as the server; the replica alone by ours, over its unix socket.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import wrk
from benchmarks.envoy import BareEnvoy, bare_envoy
from benchmarks.load import Spec, generate
from benchmarks.measure import round_of
from benchmarks.options import Options
from benchmarks.report import Report
from benchmarks.rounds import Load, Round, Side, medians, taken_in
from benchmarks.server import BenchServer, bench_server, running_server

ECHO = "async def handler(payload, ctx):\n    return payload or b'hello'\n"
APP = "warm"
FLAGS = ("--tier", "xlarge", "--max-concurrency", "64", "--max-replicas", "1")
ROUTE_SECS = 10.0
STARTS = 4
ON_THE_WAY = ("envoy", "gateway", "controllers", "replica")


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="fqdn")
    with_wrk = options.generator != "own" and wrk.is_installed()
    if not with_wrk:
        report.notes.append("wrk is not used: the generator is ours, and takes more CPU itself")
    one, many = "ignite, 1 app", f"ignite, {options.apps:,} apps"
    taken: dict[str, list[Round]] = {}
    with running_server() as small, _full(options) as full:
        small.deploy(APP, ECHO, *FLAGS)
        for _ in range(STARTS):
            for server in (small, full):
                server.stop()
                server.start()
                warm_up(server)
            replica = replica_socket(small)
            with bare_envoy(f"{replica}") as bare:
                sides = [
                    _server_side(one, small, options, with_wrk),
                    _server_side(many, full, options, with_wrk),
                    _bare_side(bare, small, options, with_wrk),
                    _replica_side(replica, small, options),
                ]
                for name, rounds in taken_in(sides, -(-options.rounds // STARTS)).items():
                    taken.setdefault(name, []).extend(rounds)
    found = {name: medians(name, rounds) for name, rounds in taken.items()}
    report.sides = list(found.values())
    ours, theirs, direct = found[one], found["bare envoy"], found["replica alone"]
    report.compare(
        "requests/s to bare Envoy", ours.per_sec, theirs.per_sec, unit="/s", target="≥ 0.70"
    )
    report.compare(
        "CPU of all but the generator to bare Envoy's",
        ours.server_cpu_us,
        theirs.server_cpu_us,
        unit="µs",
        target="≤ 1.5",
    )
    report.compare(
        "CPU of the proxy alone to bare Envoy's",
        ours.server_cpu_us - ours.cpu_us["replica"],
        theirs.cpu_us["bare envoy"],
        unit="µs",
    )
    report.compare("requests/s to the replica alone", ours.per_sec, direct.per_sec, unit="/s")
    report.compare(
        f"CPU with {options.apps:,} apps to 1 app",
        found[many].server_cpu_us,
        ours.server_cpu_us,
        unit="µs",
        target="≤ 1.05",
    )
    report.notes.append(
        f"every side is started {STARTS} times: two of the same differ by 5 % and more"
    )
    report.notes.append("the replica alone is loaded by our generator, over its unix socket")
    return report


@contextmanager
def _full(options: Options) -> Iterator[BenchServer]:
    """A server that has many sleeping apps beside the warm one."""
    with bench_server() as server:
        server.start()
        server.deploy(APP, ECHO, *FLAGS)
        server.register_sleeping(APP, options.apps)
        yield server


def warm_up(server: BenchServer, app: str = APP, *, bound_secs: float = 20.0) -> None:
    """Wake an app and go on until Envoy's own routes carry it without an error."""
    ends = time.monotonic() + bound_secs
    while True:
        target = f"127.0.0.1:{server.http_port}"
        load = generate(Spec(target=target, requests=(server.head(app),), secs=0.5))
        if load.requests and not load.errors:
            return
        if time.monotonic() > ends:
            raise RuntimeError(f"the app does not answer: {load.detail}\n{server.words()}")


def replica_socket(server: BenchServer) -> Path:
    """Return the socket of the only replica, as seen from outside the server's mounts."""
    (spawner,) = server.roles["spawner"]
    ends = time.monotonic() + ROUTE_SECS
    while time.monotonic() < ends:
        table = json.loads((server.layout.gateway / "routes.json").read_text())
        found = [one["unix_path"] for route in table["routes"] for one in route["replicas"]]
        if found:
            return Path(f"/proc/{spawner}/root{found[0]}")
        time.sleep(0.05)
    raise RuntimeError("no route leads to a replica")


def _bare_side(bare: BareEnvoy, server: BenchServer, options: Options, with_wrk: bool) -> Side:
    def once() -> Round:
        roles = {"bare envoy": (bare.pid,), "replica": server.roles["replica"]}
        return round_of(roles, lambda: _load(bare.port, server, options, with_wrk))

    return Side(name="bare envoy", run=once)


def _replica_side(replica: Path, server: BenchServer, options: Options) -> Side:
    def once() -> Round:
        roles = {"replica": server.roles["replica"]}
        return round_of(roles, lambda: _own(f"unix:{replica}", server, options))

    return Side(name="replica alone", run=once)


def _server_side(name: str, server: BenchServer, options: Options, with_wrk: bool) -> Side:
    def once() -> Round:
        roles = {part: pids for part, pids in server.roles.items() if part in ON_THE_WAY}
        return round_of(roles, lambda: _load(server.http_port, server, options, with_wrk))

    return Side(name=name, run=once)


def _load(port: int, server: BenchServer, options: Options, with_wrk: bool) -> Load:
    if not with_wrk:
        return _own(f"127.0.0.1:{port}", server, options)
    headers = {"Host": server.host_of(APP), "Authorization": server.metadata[0][1]}
    return wrk.run(port, "/bench", headers, connections=options.connections, secs=options.secs)


def _own(target: str, server: BenchServer, options: Options) -> Load:
    return generate(
        Spec(
            target=target,
            requests=(server.head(APP),),
            connections=options.connections,
            secs=options.secs,
        )
    )
