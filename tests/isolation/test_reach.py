"""What an app reaches of a whole running server: its data, its sockets, its other apps."""

import errno
import json
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import folder
from tests.e2e.server import Server, processes_of
from tests.isolation.neighbours import CODE, Neighbour
from tests.isolation.rig import PROBE, long
from tests.support.spawner import WAYS, needs_bwrap, needs_root

from ignite.layout import Layout

pytestmark = [needs_root, needs_bwrap, pytest.mark.timeout(300)]

SECRET = "9c1d-canary-of-the-neighbour"
GONE = (-errno.ENOENT, -errno.EACCES, -errno.ECONNREFUSED, -errno.ENETUNREACH)


@pytest.fixture(scope="module", params=["pool", pytest.param("bwrap", marks=long)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with folder() as home:
        running = Server(home / "data", WAYS[request.param])
        try:
            running.start()
            deploy(running, "neighbour", CODE, "--env", f"TOKEN={SECRET}")
            deploy(running, "attacker", PROBE)
            yield running
        finally:
            if running.is_running():
                assert running.stop() == 0
        assert not processes_of(running.data)


@pytest.fixture(scope="module")
def neighbour(server: Server) -> Iterator[Neighbour]:
    """Called by its host name for as long as the module lasts."""
    with Neighbour(lambda body: post(server, "neighbour", body)).called() as made:
        yield made


def deploy(server: Server, app: str, code: str, *more: str) -> None:
    # The apps are written indented, as parts of a test.
    lines = [line.removeprefix("    ") for line in code.splitlines()]
    server.deploy(app, {"handler.py": "\n".join(lines) + "\n"}, *more)


def post(server: Server, app: str, body: bytes) -> bytes:
    """Return the body of an app's answer, or what it answered instead of a 200."""
    answer = server.http("POST", "/", body, host=server.host_of(app))
    return answer.body if answer.status == 200 else repr(answer).encode()


def ask(server: Server, code: str) -> Any:
    """Run `code` in the attacker's app; return its result, or minus the number of its OSError."""
    answer = post(server, "attacker", code.encode())
    found = json.loads(answer)
    return -found["errno"] if "errno" in found else found["result"]


def test_the_data_folder_and_what_is_in_it_are_not_there(
    server: Server, neighbour: Neighbour
) -> None:
    layout = Layout(data=server.data)
    paths = [
        server.data,
        server.data.parent,
        layout.connection_file,
        *(layout.logs, layout.postgres, layout.openbao, layout.keys, layout.pki, layout.blobs),
        *(layout.artifacts, layout.builds, layout.replicas, layout.gateway, layout.run),
        *layout.keys.iterdir(),
        *layout.pki.iterdir(),
    ]
    code = f"""
import os
result = []
for path in {[str(path) for path in paths]}:
    for way in (path, '/proc/1/root' + path, '/proc/1/cwd/../../../..' + path):
        try:
            os.stat(way)
            result.append(way)
        except OSError:
            pass
"""
    assert ask(server, code) == []
    neighbour.is_served()


def test_no_socket_of_the_servers_can_be_connected(server: Server, neighbour: Neighbour) -> None:
    run = Layout(data=server.data).run
    sockets = [path for path in run.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    names = {path.relative_to(run).parts[0] for path in sockets}
    # Of every role.
    assert names >= {"pg", "bao.sock", "envoy-admin.sock", "internal.sock", "api.sock"}
    assert names >= {"controllers.sock", "spawner.sock", "xds.sock", "activator.sock"}
    for path in sockets:
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(path)!r})"
        assert ask(server, code) in GONE, path
    neighbour.is_served()


def test_no_abstract_socket_of_the_machines_is_seen(server: Server, neighbour: Neighbour) -> None:
    seen = ask(server, "result = open('/proc/net/unix').read().splitlines()[1:]")
    named = {line.split(maxsplit=7)[7] for line in seen if len(line.split(maxsplit=7)) == 8}
    assert named <= {"/run/ignite/s~"}  # the name it was made by
    abstract = [
        line.split(maxsplit=7)[7]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if line.rpartition(" ")[2].startswith("@")
    ]
    for name in abstract:
        address = "\0" + name[1:]
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({address!r})"
        assert ask(server, code) in GONE, name
    neighbour.is_served()


def test_the_listeners_are_not_on_its_loopback(server: Server, neighbour: Neighbour) -> None:
    for name in ("http", "grpc", "admin"):
        port = int(server.connection[name].rpartition(":")[2])
        for host in ("127.0.0.1", "::1", "localhost"):
            code = f"import socket\nsocket.create_connection(({host!r}, {port}), 2)"
            assert ask(server, code) < 0, (name, host)
    neighbour.is_served()


def test_nothing_of_the_neighbours_is_found(server: Server, neighbour: Neighbour) -> None:
    code = f"""
import os
wanted = {SECRET[:-1]!r}.encode()
result = []
for top in ('/app', '/run', '/tmp', '/etc', '/opt', '/ignite', '/proc'):
    for folder, folders, names in os.walk(top):
        folders[:] = [n for n in folders if n not in ('task', str(os.getpid()))]
        for name in names:
            path = os.path.join(folder, name)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                if wanted in os.read(descriptor, 1 << 20):
                    result.append(path)
            except OSError:
                pass
            finally:
                os.close(descriptor)
"""
    assert ask(server, code) == []
    assert SECRET not in str(ask(server, "import os\nresult = dict(os.environ)"))
    neighbour.is_served()


@pytest.mark.parametrize(
    ("target", "path", "words"),
    [
        ("envoy-admin.sock", "/server_info", b"hot_restart"),
        ("internal.sock", "/", b"Ignite"),
        ("edge.sock", "/", b"Ignite"),
        ("bao.sock", "/v1/sys/health", b"initialized"),
        ("activator.sock", "/", b"Ignite"),
    ],
)
def test_a_link_in_place_of_its_socket_leads_nobody_to_another(
    server: Server, neighbour: Neighbour, target: str, path: str, words: bytes
) -> None:
    deploy(server, "linker", PROBE)
    code = f"""
import os
os.rename('/run/ignite/s', '/run/ignite/moved')
os.symlink('../../{target}', '/run/ignite/s')
"""
    post(server, "linker", code.encode())
    # Connections are kept: while this one is busy, another has to be made.
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(post, server, "linker", b"import time\ntime.sleep(1)")
        for _ in range(8):
            answer = server.http("GET", path, host=server.host_of("linker"))
            assert words not in answer.body, answer
    neighbour.is_served()
