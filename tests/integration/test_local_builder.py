"""The local builder with the real spawner: from saved source to a replica that answers."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.fakes.blobs import FakeBlobStore
from tests.support.spawner import Spawner, call, needs_bwrap, needs_root, spawner
from tests.unit.runtimes.test_python_compile import make_wheel

from ignite.builders.local import LocalBuilder
from ignite.domain.builds import Build, BuildState
from ignite.domain.errors import PermanentError
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import Code, CodeKind, Language, Runtime
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.settings import BuildSettings, LimitSettings

__all__ = ["spawner"]
pytestmark = [needs_root, needs_bwrap]

ACME = OrganizationName("acme")
EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Bench:
    """A builder on the real spawner."""

    spawner: Spawner
    builder: LocalBuilder
    blobs: FakeBlobStore
    lines: list[tuple[str, str]] = field(default_factory=list)

    async def log(self, stream: str, message: str) -> None:
        self.lines.append((stream, message))

    async def build(self, folder: Path, version: str = "") -> str:
        """Compile a folder; return the path of its artifact."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            archive.add(folder, arcname=".")
        blob = await self.blobs.put(ACME, out.getvalue())
        build = Build(
            id=f"bld_{blob[:10]}",
            deploy_id="dep_1",
            app_id=1,
            organization=ACME,
            organization_id=OrganizationId("01ACME"),
            app_name="app",
            code=Code(
                kind=CodeKind.SDK,
                runtime=Runtime(language=Language.PYTHON, version=version),
                blob=blob,
                size_bytes=0,
                is_archive=True,
                build_args={},
                hash=blob,
            ),
            state=BuildState.RUNNING,
            artifact="",
            error="",
            error_reason="",
            created_at=datetime.now(UTC),
            started_at=None,
            completed_at=None,
        )
        result = await self.builder.build(build, self.log)
        return str(self.spawner.layout.artifact(ACME, result.artifact))


@pytest.fixture
async def bench(spawner: Spawner) -> AsyncIterator[Bench]:
    blobs = FakeBlobStore()
    address = f"unix:{spawner.layout.spawner_socket}"
    async with grpc.aio.insecure_channel(address) as channel:
        builder = LocalBuilder(channel, blobs, spawner.layout, BuildSettings(), LimitSettings())
        yield Bench(spawner, builder, blobs)


async def answer(bench: Bench, artifact: str, body: bytes, version: str = "3.11") -> bytes:
    async with bench.spawner.client() as client:
        status = await client.ready(
            artifact, runtime=pb.LanguageRuntime(language="python", version=version)
        )
        try:
            return (await call(status, body)).partition(b"\r\n\r\n")[2]
        finally:
            await client.stop(status.replica_id)


async def test_an_example_is_compiled_and_answers(bench: Bench) -> None:
    artifact = await bench.build(EXAMPLES / "hello")
    assert b"Hello, Ada!" in await answer(bench, artifact, b'{"name": "Ada"}')


async def test_packages_are_bundled(bench: Bench, tmp_path: Path) -> None:
    make_wheel(tmp_path, "tiny", "1.0", "X = 'tiny'\n")
    (tmp_path / "requirements.txt").write_text("./tiny-1.0-py3-none-any.whl\n")
    (tmp_path / "handler.py").write_text("import tiny\ndef handler(p, c):\n    return tiny.X\n")
    artifact = await bench.build(tmp_path)
    assert await answer(bench, artifact, b"") == b"tiny"


async def test_every_python_of_the_machine_compiles_and_runs(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(
        "import sys\ndef handler(p, c):\n    return '%d.%d' % sys.version_info[:2]\n"
    )
    async with bench.spawner.client() as client:
        report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
    for found in report.interpreters:
        artifact = await bench.build(tmp_path, found.version)
        assert await answer(bench, artifact, b"", found.version) == found.version.encode()


async def test_a_package_that_cannot_be_had_fails_with_its_name(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "handler.py").write_text("def handler(p, c): ...\n")
    (tmp_path / "requirements.txt").write_text("--no-index\nno-such-package==1\n")
    with pytest.raises(PermanentError, match="no-such-package") as refusal:
        await bench.build(tmp_path)
    assert refusal.value.reason == "DependencyInstallFailed"


async def test_a_syntax_error_has_its_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handler(:\n")
    with pytest.raises(PermanentError, match=r"^handler\.py:1: SyntaxError") as refusal:
        await bench.build(tmp_path)
    assert refusal.value.reason == "SourceInvalid"
    assert await asyncio.to_thread(lambda: list(bench.spawner.layout.builds.iterdir())) == []
