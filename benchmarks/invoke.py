"""gRPC Invoke of a warm app, beside a bare grpc.aio stream of the very same frames."""

from benchmarks.bare_grpc import Bare, bare_grpc
from benchmarks.fqdn import APP, FLAGS, warm_up
from benchmarks.load import Spec, generate
from benchmarks.measure import round_of
from benchmarks.options import Options
from benchmarks.report import Report
from benchmarks.rounds import Side, alternate
from benchmarks.server import BenchServer, running_server
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

SIZES = {"1 KiB": 1024, "1 MiB": 1024 * 1024}
HANDLER = f"""
DATA = bytes({max(SIZES.values())})

async def handler(payload, ctx):
    return DATA[:int(payload or b'16')]
"""
METHOD = "/dodil.ignite.v1.ComputeService/Invoke"
ON_THE_WAY = ("api", "envoy", "gateway", "replica")
STREAMS = 8


def run(options: Options) -> Report:
    """Run the bench."""
    report = Report(bench="invoke")
    with running_server() as server:
        server.deploy(APP, HANDLER, *FLAGS)
        warm_up(server)
        requests = {name: _request(server, size) for name, size in SIZES.items()}
        frames = {request.body.decode(): _frames(server, request) for request in requests.values()}
        with bare_grpc(frames=frames) as bare:
            for name, request in requests.items():
                count = len(frames[request.body.decode()])
                ours, theirs = f"Invoke {name}", f"bare stream {name}"
                found = alternate(
                    [
                        _server_side(ours, server, request, options),
                        _bare_side(theirs, bare, request, options),
                    ],
                    options.rounds,
                )
                report.sides += found.values()
                report.compare(
                    f"Invoke {name} to a bare stream of its {count} frames",
                    found[ours].per_sec,
                    found[theirs].per_sec,
                    unit="/s",
                    target="≥ 0.4",
                )
                report.compare(
                    f"CPU of api, {name}",
                    found[ours].cpu_us["api"],
                    found[theirs].cpu_us["bare grpc"],
                    unit="µs",
                )
    return report


def _request(server: BenchServer, size: int) -> pb.InvokeRequest:
    return pb.InvokeRequest(
        organization_name=server.org,
        app_name=APP,
        http=common.HttpContext(method=common.HTTP_METHOD_POST, path="/bench"),
        body=str(size).encode(),
    )


def _frames(server: BenchServer, request: pb.InvokeRequest) -> list[pb.InvokeResponse]:
    """Return what the server answers."""
    with server.compute() as compute:
        return list(compute.Invoke(request, metadata=server.metadata, timeout=30))


def _server_side(
    name: str, server: BenchServer, request: pb.InvokeRequest, options: Options
) -> Side:
    roles = {part: pids for part, pids in server.roles.items() if part in ON_THE_WAY}
    return Side(
        name=name,
        run=lambda: round_of(
            roles,
            lambda: generate(
                _spec(server.connection["grpc"], request, options, server.metadata[0][1])
            ),
        ),
    )


def _bare_side(name: str, bare: Bare, request: pb.InvokeRequest, options: Options) -> Side:
    return Side(
        name=name,
        run=lambda: round_of(
            {"bare grpc": (bare.pid,)},
            lambda: generate(_spec(f"127.0.0.1:{bare.port}", request, options)),
        ),
    )


def _spec(target: str, request: pb.InvokeRequest, options: Options, bearer: str = "") -> Spec:
    return Spec(
        target=target,
        requests=(request.SerializeToString(),),
        method=METHOD,
        authorization=bearer,
        connections=STREAMS // 2,
        slots=2,
        secs=options.secs,
        ok=(0,),
    )
