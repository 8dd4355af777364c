"""Runs compiles: a command of a recipe in the same sandbox, with folders to write and a network.

The command is code that a tenant chose (a package may run anything when it is built), so it gets no
secret, no environment of ours, bounds on time, memory, processes, output and disk, and is killed as
a whole. What it leaves is checked and only then handed over.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ignite.builders.indexes import configured_index
from ignite.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    IgniteError,
    Internal,
    Unavailable,
)
from ignite.layout import Layout
from ignite.sandbox.bubblewrap import HOME
from ignite.sandbox.cgroups import ControlGroup
from ignite.sandbox.etc import write_passwd
from ignite.sandbox.interpreters import Interpreter
from ignite.sandbox.launcher import Launcher, Sandboxed
from ignite.sandbox.network.namespaces import Namespace
from ignite.sandbox.network.plan import Kind
from ignite.sandbox.paths import open_folder, open_parent
from ignite.settings import BuildSettings, RuntimeSettings
from ignite.spawner.build_folders import (
    MOST_CACHE_BYTES,
    BuildFolders,
    WorkFolders,
    disk_use,
)
from ignite.spawner.build_sandbox import build_sandbox
from ignite.spawner.host import Host
from ignite.spawner.logs import SYSTEM, LogLine, LogPump
from ignite.spawner.networks import Networks
from ignite.spawner.outputs import (
    MAX_DEPTH,
    OutputBounds,
    OutputRefused,
    TreeTooDeep,
    take_over,
)
from ignite.spawner.specs import BuildLine, BuildOutcome, BuildSpec, check_build

logger = logging.getLogger(__name__)

# A compile may write this much more than the artifact it makes: sources, objects, wheels.
_DISK_FACTOR = 3
_DISK_LOOK_SECS = 1.0
# A cache has many files, and is looked at less often.
_CACHE_LOOKS = 10
_DRY_PIPE_SECS = 1.0
_KEPT_BYTES_PER_SEC = 1024 * 1024
_MAX_WAITING_LINES = 1000
_MAX_MESSAGE_BYTES = 2048
_PIDS = 512
_LINE_COST = 32
_TRIM_SECS = 3600.0
_DAY_SECS = 86_400

Output = BuildLine | BuildOutcome


@dataclass(slots=True, kw_only=True)
class _Job:
    """One compile under way. `stopped` says why we ended it, if we did."""

    spec: BuildSpec
    interpreter: Interpreter
    source: int
    room: int
    outputs: "asyncio.Queue[Output | IgniteError]" = field(default_factory=asyncio.Queue)
    stopped: BuildOutcome | None = None

    def take(self, line: LogLine) -> bool:
        """Pass a line on; False asks the pump to wait until somebody has read."""
        if self.room > 0:
            # A short line costs as much to carry as a long one.
            self.room -= len(line.message) + _LINE_COST
            if self.room <= 0:
                line = replace(line, stream=SYSTEM, message="the log is full: the rest is dropped")
            at = datetime.fromtimestamp(line.ts_ms / 1000, UTC)
            self.outputs.put_nowait(BuildLine(at=at, stream=line.stream, message=line.message))
        return self.outputs.qsize() < _MAX_WAITING_LINES

    def stop(self, reason: str, message: str) -> None:
        """Note the first reason for which we end it."""
        if self.stopped is None:
            self.stopped = BuildOutcome(
                exit_code=-9, duration_secs=0, reason=reason, message=message
            )


class Builds:
    """Compiles for whoever calls; each lives as long as its caller listens. A component."""

    name = "builds"

    def __init__(
        self,
        *,
        settings: BuildSettings,
        runtime: RuntimeSettings,
        layout: Layout,
        host: Host,
        launcher: Launcher,
        folders: BuildFolders,
        networks: Networks,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._layout = layout
        self._host = host
        self._launcher = launcher
        self._folders = folders
        self._networks = networks
        self._index_url = configured_index(settings)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Take compiles until cancelled; those under way are ended then."""
        await asyncio.to_thread(self._folders.open)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._trim_caches(), name="trim caches")
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None

    async def _trim_caches(self) -> None:
        """Keep the caches within their bounds, until cancelled."""
        settings = self._settings
        while True:
            await asyncio.sleep(_TRIM_SECS)
            try:
                trimmed = await asyncio.to_thread(
                    self._folders.trim,
                    most_bytes=settings.cache_bytes,
                    most_age_secs=settings.cache_days * _DAY_SECS,
                )
            except Exception:  # compiles go on, and the next hour may be better
                logger.exception("caches cannot be trimmed")
                continue
            if trimmed.count:
                logger.info(
                    "removed caches of packages",
                    extra={"caches": trimmed.count, "bytes": trimmed.size_bytes},
                )

    async def compile(self, spec: BuildSpec) -> AsyncIterator[Output]:
        """Yield the lines of a compile and last how it ended. Closing the iterator ends it."""
        check_build(spec)
        if self._tasks is None:
            raise Unavailable("the spawner is stopping", reason="Stopping")
        if refusal := self._host.report.refusal:
            raise FailedPrecondition(
                f"the sandbox is weaker than asked for: {refusal}", reason="SandboxTooWeak"
            )
        interpreter = self._host.interpreter(spec.runtime)
        # Opened again when it is needed; looked at now, so that a wrong one costs nothing.
        os.close(self._open_output(spec)[0])
        source = open_folder(spec.source_path, [self._layout.builds], field="source_path")
        job = _Job(spec=spec, interpreter=interpreter, source=source, room=self._settings.log_bytes)
        task = self._tasks.create_task(self._work(job), name=f"build {spec.id}")
        try:
            while True:
                output = await job.outputs.get()
                if isinstance(output, IgniteError):
                    raise output
                yield output
                if isinstance(output, BuildOutcome):
                    return
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self, job: _Job) -> None:
        """Do the compile; whatever happens, the last output says how it ended."""
        began = asyncio.get_running_loop().time()
        last: Output | IgniteError = Internal("the compile could not be run")
        try:
            async with self._slots:
                outcome = await self._in_folders(job)
            secs = asyncio.get_running_loop().time() - began
            version = job.interpreter.version
            last = replace(outcome, duration_secs=secs, runtime_version=version)
        except IgniteError as error:
            last = error
        except Exception:
            logger.exception("build cannot be run", extra={"build": job.spec.id})
        finally:
            os.close(job.source)
            job.outputs.put_nowait(last)

    async def _in_folders(self, job: _Job) -> BuildOutcome:
        spec = job.spec
        try:
            folders = await asyncio.to_thread(self._folders.make, spec.id, spec.organization_id)
        except FileExistsError:
            raise AlreadyExists("this build is under way", reason="BuildUnderWay") from None
        try:
            outcome = await self._in_group(job, folders)
            if not outcome.reason:
                outcome = await asyncio.to_thread(self._hand_over, spec, folders, outcome)
            return outcome
        finally:
            await asyncio.to_thread(self._folders.remove, folders)

    async def _in_group(self, job: _Job, folders: WorkFolders) -> BuildOutcome:
        group = await asyncio.to_thread(self._make_group, job.spec)
        network: Namespace | None = None
        try:
            network = await self._network()
            sandbox = build_sandbox(
                job.spec,
                self._host,
                self._runtime,
                interpreter=job.interpreter,
                source=job.source,
                folders=folders,
                passwd=write_passwd(folders.root / "passwd", folders.uid, home=HOME),
                network="" if network is None else network.path,
            )
            sandboxed = await self._launcher.start(sandbox, group)
            try:
                return await self._follow(job, sandboxed, folders, group)
            finally:
                await asyncio.to_thread(sandboxed.kill)
                sandboxed.close()
        finally:
            await asyncio.to_thread(group.remove)
            if network is not None:
                self._networks.give_back(network)

    async def _network(self) -> Namespace | None:
        await self._networks.allow_index(self._index_url)
        return await self._networks.take(Kind.BUILD)

    async def _follow(
        self, job: _Job, sandboxed: Sandboxed, folders: WorkFolders, group: ControlGroup
    ) -> BuildOutcome:
        pump = LogPump(
            {sandboxed.stdout: "stdout", sandboxed.stderr: "stderr"},
            job.take,
            kept_bytes_per_sec=_KEPT_BYTES_PER_SEC,
        )
        pump.start()
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(sandboxed.wait())
            full = tasks.create_task(self._until_disk_full(job, folders))
            await asyncio.wait(
                [ended, full],
                timeout=job.spec.timeout_secs,
                return_when=asyncio.FIRST_COMPLETED,
            )
            full.cancel()
            if not ended.done():
                job.stop("Timeout", f"the compile took longer than {job.spec.timeout_secs} s")
                await asyncio.to_thread(sandboxed.kill)
            code = await ended
        oom_kills = group.oom_kills()
        await asyncio.to_thread(group.kill)
        await pump.end(_DRY_PIPE_SECS)
        return job.stopped or _judge(job.spec, code, oom_kills, pump.last_words(_MAX_MESSAGE_BYTES))

    async def _until_disk_full(self, job: _Job, folders: WorkFolders) -> None:
        why = ""
        looks = 0
        while not why:
            await asyncio.sleep(_DISK_LOOK_SECS)
            looks += 1
            try:
                why = await self._overflow(folders, with_cache=looks % _CACHE_LOOKS == 0)
            except TreeTooDeep:
                why = f"the compile made folders over {MAX_DEPTH} deep"
        job.stop("DiskFull", why)

    async def _overflow(self, folders: WorkFolders, *, with_cache: bool) -> str:
        """Return what is too much on the disk, if anything is. Raises TreeTooDeep."""
        most = self._settings.artifact_bytes * _DISK_FACTOR
        used = await asyncio.to_thread(disk_use, folders.work, most_bytes=most)
        used += await asyncio.to_thread(disk_use, folders.output, most_bytes=most)
        if used > most:
            return f"the compile wrote more than {most} bytes"
        if with_cache:
            cached = await asyncio.to_thread(disk_use, folders.cache, most_bytes=MOST_CACHE_BYTES)
            if cached > MOST_CACHE_BYTES:
                return "the organisation's cache of packages is full"
        return ""

    def _make_group(self, spec: BuildSpec) -> ControlGroup:
        group = self._host.groups.create(f"build.{spec.id}")
        group.limit_memory(spec.memory_mb * 1024 * 1024)
        group.limit_pids(_PIDS)
        group.limit_cpu(spec.cpu_millicores)
        return group

    def _open_output(self, spec: BuildSpec) -> tuple[int, str]:
        roots = [self._layout.builds, self._layout.artifacts]
        return open_parent(spec.output_path, roots, field="output_path")

    def _hand_over(
        self, spec: BuildSpec, folders: WorkFolders, outcome: BuildOutcome
    ) -> BuildOutcome:
        """Check the tree and move it to where the caller asked for it."""
        parent, name = self._open_output(spec)
        try:
            output = os.open(folders.output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                bounds = OutputBounds(most_bytes=self._settings.artifact_bytes)
                owner = self._host.owner if self._host.tools.is_root else None
                take_over(output, bounds, owner)
            finally:
                os.close(output)
            # Takes the place of an empty folder, and of nothing else.
            os.rename(folders.output, name, dst_dir_fd=parent)
        except OutputRefused as error:
            return replace(outcome, reason="ArtifactRefused", message=str(error))
        except OSError as error:
            logger.warning("artifact not handed over", extra={"build": spec.id}, exc_info=error)
            return replace(
                outcome, reason="OutputUnusable", message="output_path is not an empty folder"
            )
        finally:
            os.close(parent)
        return outcome


def _judge(spec: BuildSpec, code: int, oom_kills: int, words: str) -> BuildOutcome:
    reason, message = "", ""
    if code == -9 and oom_kills:
        reason, message = "OutOfMemory", f"the compile needs more than {spec.memory_mb} MB"
    elif code and words.startswith(("bwrap: ", "setpriv: ", "sh: ")):
        reason, message = "SandboxFailed", "the sandbox was not made"
    elif code:
        reason, message = "CompileFailed", words or f"the compile ended with exit code {code}"
    return BuildOutcome(exit_code=code, duration_secs=0, reason=reason, message=message)
