"""The build controller over a real Postgres: leases, logs, what is tried again and what is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import text
from tests.fakes.builder import FakeBuilder
from tests.support.deployments import HELLO, Rig, rigged, until

from ignite.controllers import build_log
from ignite.controllers.builds import MAX_ATTEMPTS, Builds
from ignite.domain.apps import AppRef
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.errors import PermanentError, TemporaryError
from ignite.domain.versions import VersionStatus


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url, is_started=False) as rig:
        await rig.create()
        yield rig


@dataclass(slots=True)
class Worker:
    """A running build controller."""

    builder: FakeBuilder
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        assert not self.task.done(), self.task
        self.task.cancel()
        await asyncio.wait([self.task])


async def start(
    rig: Rig, builder: FakeBuilder, *, concurrency: int = 2, log_bytes: int = 100_000
) -> Worker:
    builds = Builds(rig.database, builder, concurrency=concurrency, log_bytes=log_bytes)
    return Worker(builder, asyncio.ensure_future(builds.run(lambda: None)))


@asynccontextmanager
async def working(
    rig: Rig, builder: FakeBuilder, *, concurrency: int = 2, log_bytes: int = 100_000
) -> AsyncIterator[Worker]:
    worker = await start(rig, builder, concurrency=concurrency, log_bytes=log_bytes)
    try:
        yield worker
    finally:
        await worker.stop()


async def compile_of(rig: Rig, code: bytes = b"one", ref: AppRef = HELLO) -> Build:
    await rig.save(code, ref)
    return await rig.drafts.compile(ref)


async def found(rig: Rig, build: Build) -> Build:
    async with rig.database.transaction() as tx:
        now = await tx.builds.get(build.app_id, build.id)
    assert now is not None
    return now


async def ended(rig: Rig, build: Build, within: float = 20) -> Build:
    async def is_terminal() -> bool:
        return (await found(rig, build)).state.is_terminal

    await until(is_terminal, within)
    return await found(rig, build)


async def lines(rig: Rig, build: Build) -> tuple[BuildLine, ...]:
    async with rig.database.transaction() as tx:
        return await tx.builds.lines(build.id, after=0, limit=100_000)


async def execute(rig: Rig, statement: str) -> None:
    async with rig.database.transaction() as tx:
        await tx.connection.execute(text(statement))


async def test_a_build_gives_the_draft_its_artifact_and_keeps_its_log(rig: Rig) -> None:
    async with working(rig, FakeBuilder(lines=["one", "two"])):
        build = await ended(rig, await compile_of(rig))
    assert build.state is BuildState.SUCCEEDED
    draft = await rig.drafts.info(HELLO)
    assert draft is not None
    assert (draft.artifact, draft.status) == (build.artifact, VersionStatus.DRAFT)
    log = await lines(rig, build)
    assert [line.message for line in log[:2]] == ["one", "two"]
    assert log[-1].message.startswith("compiled in ")
    assert [line.number for line in log] == [1, 2, 3]


async def test_a_failed_build_tells_the_draft_why(rig: Rig) -> None:
    builder = FakeBuilder(failures=[PermanentError("no module named x", reason="CompileFailed")])
    async with working(rig, builder):
        build = await ended(rig, await compile_of(rig))
    assert (build.state, build.error_reason) == (BuildState.FAILED, "CompileFailed")
    draft = await rig.drafts.info(HELLO)
    assert draft is not None
    assert (draft.status, draft.error) == (VersionStatus.FAILED, "no module named x")
    assert (await lines(rig, build))[-1].message == "failed: no module named x"
    assert len(builder.built) == 1


async def test_a_hint_starts_a_build_long_before_the_poll(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite.controllers.builds._POLL_SECS", 600.0)
    builder = FakeBuilder()
    async with working(rig, builder, concurrency=1):
        for code in (b"one", b"two", b"three"):
            await ended(rig, await compile_of(rig, code))


async def test_builds_that_were_hinted_together_are_taken_by_all_workers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite.controllers.builds._POLL_SECS", 600.0)
    other = AppRef(organization=HELLO.organization, name="other")
    await rig.create(other)
    builds = [await compile_of(rig), await compile_of(rig, b"two", other)]
    builder = FakeBuilder()
    builder.gate.clear()
    async with working(rig, builder):
        await until(lambda: len(builder.running) == 2)
        builder.gate.set()
        for build in builds:
            await ended(rig, build)


async def test_no_build_runs_twice_at_once(rig: Rig) -> None:
    refs = [AppRef(organization=HELLO.organization, name=f"app-{n}") for n in range(8)]
    for ref in refs:
        await rig.create(ref)
    builder = FakeBuilder()
    async with working(rig, builder, concurrency=3), working(rig, builder, concurrency=3):
        builds = [await compile_of(rig, ref.name.encode(), ref) for ref in refs]
        for build in builds:
            assert (await ended(rig, build)).state is BuildState.SUCCEEDED
    assert sorted(builder.built) == sorted(build.id for build in builds)


async def test_no_more_builds_run_at_once_than_asked_for(rig: Rig) -> None:
    refs = [AppRef(organization=HELLO.organization, name=f"app-{n}") for n in range(5)]
    for ref in refs:
        await rig.create(ref)
    builder = FakeBuilder()
    async with working(rig, builder, concurrency=2):
        builds = [await compile_of(rig, ref.name.encode(), ref) for ref in refs]
        for build in builds:
            await ended(rig, build)
    assert builder.most_at_once <= 2


async def test_a_machine_at_fault_is_tried_again(rig: Rig) -> None:
    failure = TemporaryError("the spawner is away", after=timedelta(seconds=0.05))
    builder = FakeBuilder(failures=[failure, failure])
    async with working(rig, builder):
        build = await ended(rig, await compile_of(rig), within=20)
    assert build.state is BuildState.SUCCEEDED
    assert len(builder.built) == 3
    log = [line.message for line in await lines(rig, build)]
    assert log.count("interrupted: the spawner is away") == 2


async def test_a_machine_at_fault_is_not_tried_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ignite.controllers.builds._POLL_SECS", 0.05)
    failure = TemporaryError("the spawner is away", after=timedelta(0))
    builder = FakeBuilder(failures=[failure] * 100)
    async with working(rig, builder):
        build = await ended(rig, await compile_of(rig), within=30)
    assert (build.state, build.error_reason) == (BuildState.FAILED, "Platform")
    assert len(builder.built) == MAX_ATTEMPTS


async def test_a_build_that_takes_its_workers_down_ends_as_well(rig: Rig) -> None:
    build = await compile_of(rig)
    await execute(rig, f"UPDATE builds SET attempts = {MAX_ATTEMPTS}")
    builder = FakeBuilder()
    async with working(rig, builder):
        assert (await ended(rig, build)).error_reason == "Platform"
    assert builder.built == []


async def test_a_bug_fails_one_build_and_no_other(rig: Rig) -> None:
    builder = FakeBuilder(failures=[ValueError("a bug, with /a/path")])
    async with working(rig, builder, concurrency=1):
        first = await ended(rig, await compile_of(rig, b"one"))
        assert (first.error, first.error_reason) == ("internal error", "Internal")
        second = await ended(rig, await compile_of(rig, b"two"))
        assert second.state is BuildState.SUCCEEDED


async def test_a_stopped_worker_gives_its_build_back_at_once(rig: Rig) -> None:
    builder = FakeBuilder()
    builder.gate.clear()
    worker = await start(rig, builder)
    build = await compile_of(rig)
    await until(lambda: bool(builder.running))
    await worker.stop()
    assert builder.cancelled == [build.id]
    builder.gate.set()
    async with working(rig, builder):
        # Before the lease would have run out.
        assert (await ended(rig, build, within=15)).state is BuildState.SUCCEEDED
    log = await lines(rig, build)
    assert "interrupted: the builder is being stopped" in [line.message for line in log]
    assert [line.number for line in log] == list(range(1, len(log) + 1))


async def test_a_dead_workers_build_is_taken_up_when_its_lease_has_run_out(rig: Rig) -> None:
    build = await compile_of(rig)
    async with rig.database.transaction() as tx:
        assert await tx.builds.claim("dead", "token", timedelta(seconds=0.5)) is not None
    async with working(rig, FakeBuilder()):
        assert (await ended(rig, build)).state is BuildState.SUCCEEDED


async def test_the_lease_is_kept_while_a_build_runs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_log, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr("ignite.controllers.builds.LEASE", timedelta(seconds=1))
    monkeypatch.setattr(build_log, "_RENEW_SECS", 0.3)
    builder = FakeBuilder(lines=[])
    builder.gate.clear()
    async with working(rig, builder), working(rig, builder):
        build = await compile_of(rig)
        await asyncio.sleep(2.5)
        builder.gate.set()
        assert (await ended(rig, build)).state is BuildState.SUCCEEDED
    assert len(builder.built) == 1


async def test_a_lost_lease_ends_the_work_and_drops_its_result(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_log, "_RENEW_SECS", 0.2)
    builder = FakeBuilder()
    builder.gate.clear()
    async with working(rig, builder, concurrency=1):
        build = await compile_of(rig)
        await until(lambda: bool(builder.running))
        await execute(
            rig,
            "UPDATE builds SET lease_token = 'other', lease_expires_at = now() + interval '1 hour'",
        )
        await until(lambda: builder.cancelled == [build.id])
        builder.gate.set()
        await asyncio.sleep(0.5)
        assert (await found(rig, build)).state is BuildState.RUNNING
    draft = await rig.drafts.info(HELLO)
    assert draft is not None
    assert draft.artifact == ""


async def test_an_app_deleted_during_its_build_disturbs_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_log, "_RENEW_SECS", 0.2)
    other = AppRef(organization=HELLO.organization, name="other")
    await rig.create(other)
    builder = FakeBuilder()
    builder.gate.clear()
    async with working(rig, builder, concurrency=1):
        build = await compile_of(rig)
        await until(lambda: bool(builder.running))
        await rig.apps.delete(HELLO)
        await until(lambda: builder.cancelled == [build.id])
        builder.gate.set()
        assert (await ended(rig, await compile_of(rig, b"two", other))).state.is_terminal


async def test_a_draft_saved_during_its_build_does_not_get_the_old_artifact(rig: Rig) -> None:
    builder = FakeBuilder()
    builder.gate.clear()
    async with working(rig, builder):
        build = await compile_of(rig, b"one")
        await until(lambda: bool(builder.running))
        await rig.save(b"two")
        builder.gate.set()
        await ended(rig, build)
    draft = await rig.drafts.info(HELLO)
    assert draft is not None
    assert draft.artifact == ""


async def test_a_log_past_its_bound_says_so_once(rig: Rig) -> None:
    builder = FakeBuilder(lines=["x" * 100] * 50)
    async with working(rig, builder, log_bytes=1000):
        build = await ended(rig, await compile_of(rig))
    log = [line.message for line in await lines(rig, build)]
    assert 5 <= log.count("x" * 100) <= 10
    assert log.count("the log is full; further lines are dropped") == 1
    assert log[-1].startswith("compiled in ")


async def test_a_flood_of_empty_lines_is_bounded_as_well(rig: Rig) -> None:
    builder = FakeBuilder(lines=[""] * 5000)
    async with working(rig, builder, log_bytes=10_000):
        build = await ended(rig, await compile_of(rig))
    assert len(await lines(rig, build)) < 1000


async def test_what_postgres_cannot_store_is_replaced(rig: Rig) -> None:
    builder = FakeBuilder(lines=["a\x00b", "\N{SNOWMAN}" * 10_000, "\ud800c"])
    async with working(rig, builder):
        build = await ended(rig, await compile_of(rig))
    log = await lines(rig, build)
    assert log[0].message == "a\N{REPLACEMENT CHARACTER}b"
    assert len(log[1].message) == 8192
    assert log[2].message == "?c"


async def test_a_long_log_is_stored_whole_and_in_order(rig: Rig) -> None:
    builder = FakeBuilder(lines=[str(number) for number in range(3500)])
    async with working(rig, builder, log_bytes=10_000_000):
        build = await ended(rig, await compile_of(rig))
    log = await lines(rig, build)
    assert [line.message for line in log[:3500]] == [str(number) for number in range(3500)]
