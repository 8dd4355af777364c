"""Calls that the database answers, beside a bare grpc.aio server with the same SQL on asyncpg."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bare_grpc import Bare, bare_grpc
from benchmarks.fqdn import APP, ECHO, FLAGS
from benchmarks.load import Spec, generate
from benchmarks.measure import round_of
from benchmarks.options import Options
from benchmarks.report import Report
from benchmarks.rounds import Side, alternate
from benchmarks.server import BenchServer, running_server
from ignite.v1 import ignite_compute_pb2 as pb

SERVICE = "/dodil.ignite.v1.ComputeService"
LISTED = 50
NEW_APPS = 2000
STREAMS = 16

Requests = Callable[[], tuple[Any, ...]]


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="control")
    with running_server() as server:
        server.deploy(APP, ECHO, *FLAGS)
        server.register_sleeping(APP, 200)
        requests = _requests(server)
        with bare_grpc(database=server.database_url, app=APP, answers=_answers(server)) as bare:
            for method, make in requests.items():
                ours, theirs = method, f"bare {method}"
                found = alternate(
                    [
                        _server_side(ours, server, method, make, options),
                        _bare_side(theirs, bare, server, method, make, options),
                    ],
                    options.rounds,
                )
                report.sides += found.values()
                report.compare(
                    f"{method} to bare",
                    found[ours].per_sec,
                    found[theirs].per_sec,
                    unit="/s",
                    target="≥ 0.6",
                )
                report.compare(
                    f"CPU of {method}, api to bare",
                    found[ours].cpu_us["api"],
                    found[theirs].cpu_us["bare grpc"],
                    unit="µs",
                )
    return report


def _requests(server: BenchServer) -> dict[str, Requests]:
    """Return what makes the requests of one round, by method; new names every time."""
    org = server.org
    names: Iterator[int] = itertools.count()
    get = pb.GetAppRequest(organization_name=org, app_name=APP)
    listing = pb.ListAppsRequest(organization_name=org, limit=LISTED)
    return {
        "GetApp": lambda: (get,),
        "ListApps": lambda: (listing,),
        "CreateApp": lambda: tuple(
            pb.CreateAppRequest(organization_name=org, name=f"new-{next(names)}")
            for _ in range(NEW_APPS)
        ),
    }


def _answers(server: BenchServer) -> dict[str, Any]:
    """Return what the server answers, for the bare one to answer the same."""
    get = pb.GetAppRequest(organization_name=server.org, app_name=APP)
    listing = pb.ListAppsRequest(organization_name=server.org, limit=LISTED)
    create = pb.CreateAppRequest(organization_name=server.org, name="first")
    with server.compute() as compute:
        return {
            "GetApp": compute.GetApp(get, metadata=server.metadata),
            "ListApps": compute.ListApps(listing, metadata=server.metadata),
            "CreateApp": compute.CreateApp(create, metadata=server.metadata),
        }


def _server_side(
    name: str, server: BenchServer, method: str, make: Requests, options: Options
) -> Side:
    def load() -> Any:
        target, bearer = server.connection["grpc"], server.metadata[0][1]
        return generate(_spec(target, method, make(), options, bearer))

    def once() -> Any:
        roles = {part: server.roles[part] for part in ("api", "postgres", "controllers")}
        return round_of(roles, load)

    return Side(name=name, run=once)


def _bare_side(
    name: str, bare: Bare, server: BenchServer, method: str, make: Requests, options: Options
) -> Side:
    def once() -> Any:
        roles = {part: server.roles[part] for part in ("postgres", "controllers")}
        return round_of(
            {"bare grpc": (bare.pid,), **roles},
            lambda: generate(_spec(f"127.0.0.1:{bare.port}", method, make(), options)),
        )

    return Side(name=name, run=once)


def _spec(
    target: str, method: str, requests: tuple[Any, ...], options: Options, bearer: str = ""
) -> Spec:
    return Spec(
        target=target,
        requests=tuple(request.SerializeToString() for request in requests),
        method=f"{SERVICE}/{method}",
        authorization=bearer,
        connections=STREAMS // 4,
        slots=4,
        secs=options.secs,
        total=len(requests) if len(requests) > 1 else 0,
        ok=(0,),
    )
