"""The local builder over a real socket; the spawner is a fake that compiles without a sandbox."""

import asyncio
import io
import subprocess
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr

from ignite.builders.indexes import configured_index
from ignite.builders.local import LocalBuilder
from ignite.domain.builds import Build, BuildState
from ignite.domain.errors import NotFound, PermanentError, TemporaryError, Unavailable
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.versions import Code, CodeKind, Language, Runtime
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc
from ignite.layout import Layout
from ignite.sandbox.interpreters import python_interpreters
from ignite.settings import BuildSettings, LimitSettings, RuntimeSettings

ACME = OrganizationName("acme")
ACME_ID = OrganizationId("01ACME")
GOOD = b"def handler(payload, ctx):\n    return payload\n"
SCRIPT = Path(__file__).parents[3] / "src/ignite/runtimes/python/compile.py"


class FakeBlobs:
    """Blobs in memory, by any name."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_away = False

    async def get(self, organization: OrganizationName, digest: str) -> bytes:
        if self.is_away:
            raise Unavailable("blobs are away")
        try:
            return self.kept[digest]
        except KeyError:
            raise NotFound("no such blob") from None

    async def put(self, organization: OrganizationName, content: bytes) -> str:
        raise NotImplementedError

    def stream(self, organization: OrganizationName, digest: str) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def put_file(self, organization: OrganizationName, path: Path) -> str:
        raise NotImplementedError


class FakeSpawner(replicas_pb2_grpc.ReplicaServiceServicer):
    """Runs the command of a build as a plain process, its inner paths replaced."""

    def __init__(self) -> None:
        self.specs: list[pb.BuildSpec] = []
        self.answers: list[pb.RunBuildResponse] | None = None
        self.status: grpc.StatusCode | None = None
        self.hangs = False
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()

    async def GetSandboxReport(  # noqa: N802
        self, request: pb.GetSandboxReportRequest, context: object
    ) -> pb.GetSandboxReportResponse:
        return pb.GetSandboxReportResponse(
            interpreters=[
                pb.Interpreter(language="python", version=one.minor, full_version=one.version)
                for one in python_interpreters(RuntimeSettings()).values()
            ]
        )

    async def RunBuild(  # noqa: N802
        self, request: pb.RunBuildRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.RunBuildResponse]:
        self.specs.append(request.spec)
        self.entered.set()
        if self.status is not None:
            await context.abort(self.status, "said the fake")
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        answers = self.answers
        if answers is None:
            answers = await asyncio.to_thread(self._run, request.spec)
        for answer in answers:
            yield answer

    def _run(self, spec: pb.BuildSpec) -> list[pb.RunBuildResponse]:
        places = {"/src": spec.source_path, "/out": spec.output_path, "/cache": "/nowhere"}
        python = python_interpreters(RuntimeSettings())[spec.runtime.version]
        places |= {"{python}": str(python.path), "/ignite/compile.py": str(SCRIPT)}
        library = {"LD_LIBRARY_PATH": f"{python.prefix}/lib"} if python.needs_library_path else {}
        done = subprocess.run(
            [places.get(word, word) for word in spec.command],
            env={**dict(spec.env), **library},
            capture_output=True,
            text=True,
            check=False,
        )
        answers = [
            pb.RunBuildResponse(line=pb.BuildLine(stream=stream, message=line))
            for stream, text in (("stdout", done.stdout), ("stderr", done.stderr))
            for line in text.splitlines()
        ]
        result = pb.BuildResult(
            succeeded=done.returncode == 0, exit_code=done.returncode, reason="CompileFailed"
        )
        return [*answers, pb.RunBuildResponse(result=result)]


class Bench:
    """A builder with everything around it."""

    def __init__(
        self, builder: LocalBuilder, blobs: FakeBlobs, spawner: FakeSpawner, layout: Layout
    ) -> None:
        self.builder = builder
        self.blobs = blobs
        self.spawner = spawner
        self.layout = layout
        self.lines: list[str] = []

    async def log(self, stream: str, message: str) -> None:
        self.lines.append(f"{stream}: {message}")

    async def build(self, build: Build) -> Path:
        result = await self.builder.build(build, self.log)
        return self.layout.artifact(ACME, result.artifact)

    async def refusal(self, build: Build) -> PermanentError:
        with pytest.raises(PermanentError) as refusal:
            await self.build(build)
        assert list(self.layout.builds.iterdir()) == []
        assert list(self.layout.artifacts.rglob("handler.py")) == []
        return refusal.value

    def take(self, content: bytes, *, is_archive: bool = False, version: str = "3.11") -> Build:
        """Return a build of new code."""
        name = f"blob{len(self.blobs.kept)}"
        self.blobs.kept[name] = content
        code = Code(
            kind=CodeKind.SDK,
            runtime=Runtime(language=Language.PYTHON, version=version),
            blob=name,
            size_bytes=len(content),
            is_archive=is_archive,
            build_args={},
            hash=f"hash of {name}",
        )
        return Build(
            id=f"bld_{name}",
            deploy_id="dep_1",
            app_id=1,
            organization=ACME,
            organization_id=ACME_ID,
            app_name="app",
            code=code,
            state=BuildState.RUNNING,
            artifact="",
            error="",
            error_reason="",
            created_at=datetime.now(UTC),
            started_at=None,
            completed_at=None,
        )

    def archive(self, files: Mapping[str, bytes]) -> Build:
        """Return a build of a ZIP."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return self.take(out.getvalue(), is_archive=True)


@asynccontextmanager
async def a_bench(data: Path, settings: BuildSettings) -> AsyncIterator[Bench]:
    layout = Layout(data)
    for folder in (layout.builds, layout.artifacts):
        folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="igb") as short:
        spawner, server = FakeSpawner(), grpc.aio.server()
        replicas_pb2_grpc.add_ReplicaServiceServicer_to_server(spawner, server)
        server.add_insecure_port(f"unix:{short}/s")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{short}/s") as channel:
                blobs = FakeBlobs()
                builder = LocalBuilder(channel, blobs, layout, settings, LimitSettings())
                yield Bench(builder, blobs, spawner, layout)
        finally:
            await server.stop(None)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with a_bench(tmp_path / "data", BuildSettings()) as made:
        yield made


class TestBuilding:
    async def test_a_single_file_becomes_the_handler(self, bench: Bench) -> None:
        artifact = await bench.build(bench.take(GOOD))
        assert (artifact / "handler.py").read_bytes() == GOOD
        assert list((artifact / "__pycache__").glob("handler.cpython-311.pyc"))
        assert bench.lines[0].startswith("stdout: Python 3.11.")
        assert list(bench.layout.builds.iterdir()) == []

    async def test_an_archive_loses_its_top_folder(self, bench: Bench) -> None:
        artifact = await bench.build(bench.archive({"app/handler.py": GOOD, "app/x/y.py": b""}))
        assert (artifact / "handler.py").read_bytes() == GOOD
        assert (artifact / "x/y.py").is_file()

    async def test_equal_code_is_compiled_once(self, bench: Bench) -> None:
        build = bench.take(GOOD)
        first = await bench.builder.build(build, bench.log)
        again = await bench.builder.build(replace(build, id="bld_other"), bench.log)
        assert first == again
        assert len(bench.spawner.specs) == 1
        assert bench.lines[-1] == "system: this code has been compiled before; nothing to do"

    async def test_two_at_a_time_end_with_the_same_artifact(self, bench: Bench) -> None:
        build = bench.take(GOOD)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bench.build(build)) for _ in range(3)]
        assert len({task.result() for task in tasks}) == 1
        assert list(bench.layout.builds.iterdir()) == []

    async def test_the_resolved_version_is_told(self, bench: Bench) -> None:
        result = await bench.builder.build(bench.take(GOOD, version=""), bench.log)
        assert result.runtime_version == python_interpreters(RuntimeSettings())["3.11"].version
        assert bench.spawner.specs[0].runtime.version == "3.11"

    async def test_the_cache_is_that_of_the_organisation_and_not_of_its_name(
        self, bench: Bench
    ) -> None:
        await bench.build(bench.take(GOOD))
        heir = replace(bench.take(GOOD + b"# heir\n"), organization_id=OrganizationId("02ACME"))
        await bench.build(heir)
        assert [spec.organization_id for spec in bench.spawner.specs] == ["01ACME", "02ACME"]

    async def test_the_bounds_reach_the_sandbox(self, bench: Bench) -> None:
        await bench.build(bench.take(GOOD))
        spec, settings = bench.spawner.specs[0], BuildSettings()
        assert spec.memory_mb == settings.memory_mb
        assert spec.timeout_secs == settings.timeout_secs
        assert str(settings.artifact_bytes) in spec.command


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "reason", "words"),
        [
            (b"def handler(:\n", "SourceInvalid", "handler.py:1: SyntaxError"),
            (b"x = 1\n", "SourceInvalid", "no top-level function named handler"),
        ],
    )
    async def test_the_apps_own_words_are_the_message(
        self, bench: Bench, code: bytes, reason: str, words: str
    ) -> None:
        refusal = await bench.refusal(bench.take(code))
        assert refusal.reason == reason
        assert words in refusal.message

    async def test_an_archive_without_its_entry(self, bench: Bench) -> None:
        assert (await bench.refusal(bench.archive({"main.py": GOOD}))).reason == "EntryFileMissing"

    async def test_a_hostile_archive(self, bench: Bench) -> None:
        refusal = await bench.refusal(bench.archive({"handler.py": GOOD, "../evil": b""}))
        assert refusal.reason == "ArchivePathTraversal"
        assert bench.spawner.specs == []

    async def test_a_name_that_is_the_platforms(self, bench: Bench) -> None:
        refusal = await bench.refusal(bench.archive({"handler.py": GOOD, ".deps/x.py": b""}))
        assert refusal.reason == "SourceInvalid"

    async def test_a_version_the_machine_has_not(self, bench: Bench) -> None:
        refusal = await bench.refusal(bench.take(GOOD, version="3.2"))
        assert refusal.reason == "RuntimeVersionNotAvailable"

    async def test_another_language(self, bench: Bench) -> None:
        build = bench.take(GOOD)
        code = replace(build.code, runtime=Runtime(language=Language.RUST))
        assert (await bench.refusal(replace(build, code=code))).reason == "RuntimeNotSupported"

    async def test_a_source_that_is_gone(self, bench: Bench) -> None:
        build = bench.take(GOOD)
        bench.blobs.kept.clear()
        assert (await bench.refusal(build)).reason == "SourceMissing"

    async def test_a_reason_of_the_sandbox_is_kept(self, bench: Bench) -> None:
        result = pb.BuildResult(exit_code=-9, reason="OutOfMemory", message="needs more memory")
        bench.spawner.answers = [pb.RunBuildResponse(result=result)]
        refusal = await bench.refusal(bench.take(GOOD))
        assert (refusal.reason, refusal.message) == ("OutOfMemory", "needs more memory")

    async def test_a_refusal_of_the_spawner_is_final(self, bench: Bench) -> None:
        bench.spawner.status = grpc.StatusCode.FAILED_PRECONDITION
        refusal = await bench.refusal(bench.take(GOOD))
        assert (refusal.reason, refusal.message) == ("BuildRefused", "said the fake")


class TestTrouble:
    async def test_a_spawner_in_trouble_may_be_asked_again(self, bench: Bench) -> None:
        bench.spawner.status = grpc.StatusCode.INTERNAL
        with pytest.raises(TemporaryError):
            await bench.build(bench.take(GOOD))

    async def test_a_compile_without_a_result_may_be_tried_again(self, bench: Bench) -> None:
        line = pb.BuildLine(stream="stdout", message="x")
        bench.spawner.answers = [pb.RunBuildResponse(line=line)]
        with pytest.raises(TemporaryError):
            await bench.build(bench.take(GOOD))

    async def test_blobs_that_are_away_may_be_asked_again(self, bench: Bench) -> None:
        bench.blobs.is_away = True
        with pytest.raises(TemporaryError):
            await bench.build(bench.take(GOOD))

    async def test_cancelling_ends_the_compile_and_leaves_nothing(self, bench: Bench) -> None:
        bench.spawner.hangs = True
        async with asyncio.TaskGroup() as group:
            building = group.create_task(bench.build(bench.take(GOOD)))
            await asyncio.wait_for(bench.spawner.entered.wait(), 10)
            building.cancel()
        await asyncio.wait_for(bench.spawner.cancelled.wait(), 10)
        assert list(bench.layout.builds.iterdir()) == []


class TestIndex:
    async def test_its_password_stays_out_of_log_and_message(self, tmp_path: Path) -> None:
        settings = BuildSettings(index_url=SecretStr("https://me:hunter2@index.invalid/simple"))
        async with a_bench(tmp_path / "data", settings) as bench:
            line = pb.BuildLine(stream="stderr", message="at https://me:hunter2@index.invalid/x")
            result = pb.BuildResult(exit_code=11)
            bench.spawner.answers = [
                pb.RunBuildResponse(line=line),
                pb.RunBuildResponse(result=result),
            ]
            refusal = await bench.refusal(bench.take(GOOD))
            spec = bench.spawner.specs[0]
            assert spec.env["UV_DEFAULT_INDEX"] == "https://me:hunter2@index.invalid/simple"
            assert refusal.reason == "DependencyInstallFailed"
            assert refusal.message == "at https://***@index.invalid/x"
            assert bench.lines == ["stderr: at https://***@index.invalid/x"]

    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("[global]\nindex-url = https://a/simple\n", "https://a/simple"),
            ("[install]\nindex-url=https://b\n[global]\nindex-url=https://a\n", "https://b"),
            ("[global]\ncert = %(x)s\n", ""),
            ("nonsense", ""),
        ],
    )
    def test_is_what_pip_is_set_to(self, tmp_path: Path, text: str, url: str) -> None:
        (tmp_path / "pip.conf").write_text(text)
        files = [tmp_path / "none.conf", tmp_path / "pip.conf"]
        assert configured_index(BuildSettings(), files) == url

    def test_the_setting_wins(self, tmp_path: Path) -> None:
        (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://a\n")
        settings = BuildSettings(index_url=SecretStr("https://ours"))
        assert configured_index(settings, [tmp_path / "pip.conf"]) == "https://ours"
