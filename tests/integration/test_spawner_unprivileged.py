"""Without root: replicas run in user namespaces, with less, and the report says so."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.spawner import Client, Spawner, call, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.layout import Layout

NOBODY = 65534
# Homes are often closed, and with them the interpreter that runs this.
PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", PYTHON)

pytestmark = [
    needs_root,
    needs_bwrap,
    pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"needs {PYTHON}"),
]


class NobodysLayout(Layout):
    """The layout as a process of nobody sees it."""

    @property
    def run(self) -> Path:
        return Path(f"/tmp/ignite-{NOBODY}-{super().run.name}")


@dataclass
class NobodysSpawner(Spawner):
    """A spawner that root starts as nobody."""

    python: tuple[str, ...] = AS_NOBODY
    owner: int = NOBODY

    @property
    def layout(self) -> Layout:
        return NobodysLayout(data=self.data)

    def app(self, code: str, name: str = "") -> str:
        path = super().app(code, name)
        for entry in (Path(path), *Path(path).iterdir()):
            os.chown(entry, NOBODY, NOBODY)
        return path


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    folder = Path(tempfile.mkdtemp(prefix="ignite-nobody-"))
    os.chown(folder, NOBODY, NOBODY)
    reads = subprocess.run(
        [*AS_NOBODY, "-c", "import grpc, ignite"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        cwd="/",
    )
    if reads.returncode:
        pytest.skip("nobody cannot read the packages of this environment")
    made = NobodysSpawner(folder / "data")
    made.start()
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
async def client(spawner: Spawner) -> AsyncIterator[Client]:
    async with spawner.client() as made:
        yield made


async def test_the_report_names_what_is_missing(client: Client) -> None:
    report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
    assert report.level == "partial"
    assert report.sufficient
    layers = {feature.name: feature for feature in report.features}
    assert not layers["uids"].enforced
    assert layers["uids"].fix
    assert layers["seccomp"].enforced
    assert layers["user namespaces"].enforced


async def test_a_replica_serves_confined_and_ends(spawner: Spawner, client: Client) -> None:
    code = """
        import os
        def handler(body, context):
            status = dict(l.split(":\\t") for l in open("/proc/self/status") if ":\\t" in l)
            nets = open("/proc/net/dev").read().count(":")
            return [status["CapEff"].strip(), status["Seccomp"].strip(), nets, os.listdir("/")]
    """
    status = await client.ready(spawner.app(code))
    answer = (await call(status)).decode()
    assert '"0000000000000000", "2", 1' in answer
    assert "root" not in answer
    ended = await client.stop(status.replica_id)
    assert (ended.reason, ended.exit_code) == ("Stopped", 0)
    assert not Path(f"/proc/{status.pid}").exists()


async def test_a_compile_makes_an_artifact(spawner: Spawner, client: Client) -> None:
    spec = client.build_spec(command=["/bin/sh", "-c", "echo hello > /out/x"])
    folder = Path(spec.output_path).parent
    for entry in (folder, *folder.iterdir()):
        os.chown(entry, NOBODY, NOBODY)
    async for response in client.stub.RunBuild(pb.RunBuildRequest(spec=spec)):
        result = response.result
    assert result.succeeded, result
    assert (Path(spec.output_path) / "x").read_text() == "hello\n"
