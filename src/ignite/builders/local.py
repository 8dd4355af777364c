"""Compiles on this machine: unpacks the source, has the spawner run the recipe, keeps the artifact.

An artifact is a folder that is moved to its name once it is whole and never changes again. Its
name is known before the compile, so equal code is compiled once; of two builders at a time the
first to move its folder wins and the other one's is dropped. One that is there is taken only with a
new time (`builders.shelves`), so that it is not removed before its build has said so.
"""

import asyncio
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import grpc.aio

from ignite.archives import inspect, unpack
from ignite.builders.indexes import configured_index
from ignite.builders.shelves import ArtifactShelf
from ignite.domain.archives import ArchiveLimits
from ignite.domain.builds import Build
from ignite.domain.errors import (
    InvalidArgument,
    NotFound,
    PermanentError,
    TemporaryError,
    Unavailable,
)
from ignite.domain.versions import Language
from ignite.internal.v1 import replicas_pb2 as pb
from ignite.internal.v1 import replicas_pb2_grpc
from ignite.layout import Layout
from ignite.ports.blobs import BlobStore
from ignite.ports.builder import BuildResult, LogSink
from ignite.runtimes.python.recipe import PythonRecipe
from ignite.runtimes.recipes import Recipe, Toolchain
from ignite.settings import BuildSettings, LimitSettings

logger = logging.getLogger(__name__)

RECIPES: Mapping[Language, Recipe] = {Language.PYTHON: PythonRecipe()}

_SYSTEM = "system"
_CALL_TIMEOUT_SECS = 30.0
# The spawner ends a compile at its own bound; ours is for a spawner that does not answer.
BUILD_SLACK_SECS = 600.0
_LAST_LINES = 12
_LAST_CHARS = 2000

_PERMANENT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class LocalBuilder:
    """`ports.builder.Builder` over the spawner's socket."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        blobs: BlobStore,
        layout: Layout,
        settings: BuildSettings,
        limits: LimitSettings,
    ) -> None:
        self._stub = replicas_pb2_grpc.ReplicaServiceStub(channel)
        self._blobs = blobs
        self._layout = layout
        self._artifacts = ArtifactShelf(layout)
        self._settings = settings
        self._index_url = configured_index(settings)
        self._limits = ArchiveLimits(
            archive_bytes=limits.archive_bytes,
            unpacked_bytes=limits.unpacked_bytes,
            entries=limits.archive_entries,
            ratio=limits.archive_ratio,
        )

    async def build(self, build: Build, log: LogSink) -> BuildResult:
        """Compile, unless there is an artifact of equal code. See the port for what it raises."""
        recipe = RECIPES.get(build.code.runtime.language)
        if recipe is None:
            raise PermanentError(
                f"runtime {build.code.runtime.language} cannot be compiled here yet",
                reason="RuntimeNotSupported",
            )
        toolchain = await self._toolchain(build, recipe)
        digest = recipe.key(build.code.hash, toolchain)
        result = BuildResult(artifact=digest, runtime_version=toolchain.full_version)
        target = self._layout.artifact(build.organization, digest)
        if await asyncio.to_thread(self._artifacts.keep, target):
            await log(_SYSTEM, "this code has been compiled before; nothing to do")
            return result
        content = await self._content(build)
        async with self._work_folder(build) as work:
            await asyncio.to_thread(
                _prepare, work, content, build.code.is_archive, recipe, self._limits
            )
            await self._compile(build, recipe, toolchain, work, log)
            await asyncio.to_thread(self._keep, work / "out", target)
        return result

    async def _toolchain(self, build: Build, recipe: Recipe) -> Toolchain:
        try:
            report = await self._stub.GetSandboxReport(
                pb.GetSandboxReportRequest(), timeout=_CALL_TIMEOUT_SECS
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        runtime = build.code.runtime
        available = [
            Toolchain(version=one.version, full_version=one.full_version)
            for one in report.interpreters
            if one.language == runtime.language
        ]
        return recipe.resolve(runtime.version, available)

    async def _content(self, build: Build) -> bytes:
        try:
            return await self._blobs.get(build.organization, build.code.blob)
        except NotFound as error:
            raise PermanentError("the source code is gone", reason="SourceMissing") from error
        except Unavailable as error:
            raise TemporaryError(error.message) from error

    @asynccontextmanager
    async def _work_folder(self, build: Build) -> AsyncIterator[Path]:
        """Make a folder for this attempt alone: an earlier one may still be ending."""
        made = await asyncio.to_thread(
            tempfile.mkdtemp, prefix=f"{build.id}-", dir=self._layout.builds
        )
        try:
            yield Path(made)
        finally:
            # Shielded: a cancelled build must not leave its folder, and it takes a moment only.
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, made, ignore_errors=True))

    async def _compile(
        self, build: Build, recipe: Recipe, toolchain: Toolchain, work: Path, log: LogSink
    ) -> None:
        request = pb.RunBuildRequest(spec=self._spec(build, recipe, toolchain, work))
        last = deque[str](maxlen=_LAST_LINES)
        hide = _password(self._index_url)
        stream = self._stub.RunBuild(
            request, timeout=self._settings.timeout_secs + BUILD_SLACK_SECS
        )
        try:
            async for response in stream:
                if response.WhichOneof("output") == "result":
                    _check(response.result, recipe, last)
                    return
                message = (
                    response.line.message.replace(hide, "***") if hide else response.line.message
                )
                if response.line.stream == "stderr":
                    last.append(message)
                await log(response.line.stream, message)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        finally:
            stream.cancel()
        raise TemporaryError("the spawner ended the compile without a result")

    def _keep(self, made: Path, target: Path) -> None:
        """Move the artifact to its name; another one that is there already is as good."""
        os.sync()
        if not self._artifacts.put(made, target):
            logger.info("equal code was compiled meanwhile", extra={"artifact": target.name})

    def _spec(self, build: Build, recipe: Recipe, toolchain: Toolchain, work: Path) -> pb.BuildSpec:
        return pb.BuildSpec(
            build_id=work.name,
            organization_name=build.organization,
            # Its cache is the organisation's own: a name that is taken again inherits none.
            organization_id=build.organization_id,
            runtime=pb.LanguageRuntime(
                language=build.code.runtime.language, version=toolchain.version
            ),
            source_path=str(work / "src"),
            output_path=str(work / "out"),
            build_args=dict(build.code.build_args),
            timeout_secs=int(self._settings.timeout_secs),
            memory_mb=self._settings.memory_mb,
            cpu_millicores=self._settings.cpu_millicores,
            command=recipe.command(self._settings.artifact_bytes),
            env=recipe.env(self._index_url),
        )


def _prepare(
    work: Path, content: bytes, is_archive: bool, recipe: Recipe, limits: ArchiveLimits
) -> None:
    """Lay the source out in `work/src`, and an empty `work/out`."""
    source = work / "src"
    for folder in (source, work / "out"):
        folder.mkdir()
        folder.chmod(0o755)
    if not is_archive:
        entry = source / recipe.entry_files[0]
        entry.write_bytes(content)
        entry.chmod(0o644)
        return
    try:
        listing = inspect(content, limits)
        prefix = listing.prefix(recipe.entry_files)
        roots = {path.removeprefix(prefix).partition("/")[0] for path in listing.files}
        if not roots.intersection(recipe.entry_files):
            wanted = " or ".join(recipe.entry_files)
            raise PermanentError(f"there is no {wanted} at the root", reason="EntryFileMissing")
        if taken := roots & recipe.reserved_names:
            raise PermanentError(
                f"{min(taken)} at the root is the platform's name", reason="SourceInvalid"
            )
        handle = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            unpack(content, handle, limits, prefix=prefix)
        finally:
            os.close(handle)
    except InvalidArgument as error:
        raise PermanentError(error.message, reason=error.reason) from error


def _check(result: pb.BuildResult, recipe: Recipe, last: deque[str]) -> None:
    """Raise PermanentError for a compile that failed: the app's own words are the best message."""
    if result.succeeded:
        return
    known = recipe.failures.get(result.exit_code)
    words = "\n".join(last).strip()[-_LAST_CHARS:]
    if known is not None:
        raise PermanentError(words or result.message, reason=known.reason)
    raise PermanentError(result.message or words, reason=result.reason or "CompileFailed")


def _password(url: str) -> str:
    """Return the credentials of a URL as they stand in it, "" for none."""
    location = urlsplit(url).netloc
    return location.rpartition("@")[0]


def _translated(error: grpc.aio.AioRpcError) -> PermanentError | TemporaryError:
    if error.code() in _PERMANENT:
        return PermanentError(error.details() or "the spawner refused", reason="BuildRefused")
    return TemporaryError(f"spawner: {error.details()}")
