"""The janitor over real files and a real Postgres: what goes, what stays, and races between."""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.clocks import ManualClock

from ignite.archives import inspect
from ignite.blobs.files import FileBlobStore
from ignite.blobs.shelf import BlobShelf
from ignite.bootstrap.controllers import _janitor_rules
from ignite.builders.shelves import ArtifactShelf, WorkFolderShelf
from ignite.controllers.janitor import Janitor, JanitorMetrics, JanitorRules
from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import Database
from ignite.db.references import References
from ignite.domain.apps import AppConfig, AppRef
from ignite.domain.archives import ArchiveLimits
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.errors import IgniteError, Unavailable
from ignite.domain.identity import Organization, OrganizationId, OrganizationName
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.sources import Source
from ignite.layout import Layout
from ignite.ports.shelves import Kept, Removed, Shelf, ShelfKind
from ignite.services.compute.apps import Apps
from ignite.services.compute.bounds import bounds_of
from ignite.services.compute.drafts import Drafts, Schemas
from ignite.services.compute.sources import Sources
from ignite.settings import DatabaseSettings, LimitSettings, ScalingSettings, Settings
from ignite.telemetry.metrics import new_registry, render

ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
RIVAL = Organization(id=OrganizationId("01RIVAL"), name=OrganizationName("rival"))
HANDLER = b"def handler(payload, ctx):\n    return payload\n"
GRACE = timedelta(hours=1)
RULES = JanitorRules(interval=timedelta(minutes=10), grace=GRACE, build_log_age=timedelta(days=30))
PYTHON = Runtime(language=Language.PYTHON, version="3.11")


class NothingWaits(Exception):
    """There is no build to do."""


def source(content: bytes = HANDLER) -> Source:
    return Source(runtime=PYTHON, content=content, is_archive=False, build_args={})


@dataclass(slots=True, kw_only=True)
class House:
    """The use cases that refer to files, the files, and a janitor with a clock of its own."""

    database: Database
    layout: Layout
    blobs: FileBlobStore
    shelves: Sequence[Shelf]
    apps: Apps
    drafts: Drafts
    # Far ahead of the files' own times, so that they are old.
    clock: ManualClock = field(default_factory=ManualClock)
    registry: object = field(default_factory=lambda: new_registry(process=False))
    janitor: Janitor = field(init=False)

    def __post_init__(self) -> None:
        self.janitor = self.another_janitor()

    def another_janitor(
        self, shelves: Sequence[Shelf] | None = None, rules: JanitorRules = RULES
    ) -> Janitor:
        registry = self.registry = new_registry(process=False)
        return Janitor(
            shelves or self.shelves,
            References(self.database),
            rules,
            JanitorMetrics(registry),
            now=self.clock,
            monotonic=self.clock.monotonic,
        )

    async def clean(self) -> dict[str, Removed]:
        """Let the janitor look, wait and look again; return what the second look removed."""
        first = await self.janitor.round()
        assert not any(removed.count for removed in first.values())
        self.clock.forward(GRACE.total_seconds())
        return await self.janitor.round()

    async def app(self, name: str, organization: Organization = ACME) -> AppRef:
        await self.apps.create(organization, name, AppConfig(), None)
        return AppRef(organization=organization.name, name=name)

    async def save(self, ref: AppRef, content: bytes = HANDLER) -> str:
        organization = ACME if ref.organization == ACME.name else RIVAL
        draft = await self.drafts.save(organization, ref, source(content), Schemas())
        return draft.code.blob

    async def build(self, *, lines: int = 0) -> Path:
        """Do what a builder and its controller do, for the oldest build that waits."""
        async with self.database.transaction() as tx:
            claimed = await tx.builds.claim("test", os.urandom(8).hex(), timedelta(minutes=1))
        if claimed is None:
            raise NothingWaits
        build, lease = claimed
        digest = hashlib.sha256(build.code.hash.encode()).hexdigest()
        await asyncio.to_thread(self.keep_artifact, build, digest)
        async with self.database.transaction() as tx:
            now = datetime.now(UTC)
            await tx.builds.add_lines(
                build.id,
                [
                    BuildLine(number=at, at=now, stream="stdout", message=f"line {at}")
                    for at in range(1, lines + 1)
                ],
            )
            if await tx.builds.finish(lease, BuildState.SUCCEEDED, artifact=digest):
                await tx.versions.compiled(build, digest)
        return self.layout.artifact(build.organization, digest)

    def keep_artifact(self, build: Build, digest: str) -> None:
        target = self.layout.artifact(build.organization, digest)
        shelf = ArtifactShelf(self.layout)
        if shelf.keep(target):
            return
        made = self.layout.builds / f"{build.id}-{os.urandom(4).hex()}"
        (made / "out").mkdir(parents=True)
        (made / "out/handler.py").write_text("x")
        shelf.put(made / "out", target)
        shutil.rmtree(made)

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        from sqlalchemy import text

        async with self.database.transaction() as tx:
            return [tuple(row) for row in await tx.connection.execute(text(statement))]

    async def missing(self) -> list[str]:
        """Return what rows refer to and is not there."""
        blobs = await self.rows(
            "SELECT organization, blob FROM versions JOIN apps ON id = app_id UNION "
            "SELECT organization, blob FROM builds WHERE state IN ('pending', 'running')"
        )
        artifacts = await self.rows(
            "SELECT organization, artifact FROM versions JOIN apps ON id = app_id "
            "WHERE artifact <> '' UNION "
            "SELECT organization, artifact FROM builds WHERE artifact <> ''"
        )
        gone = [
            f"blob {organization}/{digest}"
            for organization, digest in blobs
            if not (self.layout.blobs / organization / digest[:2] / digest[2:]).is_file()
        ]
        return gone + [
            f"artifact {organization}/{digest}"
            for organization, digest in artifacts
            if not (self.layout.artifact(organization, digest) / "handler.py").is_file()
        ]

    def files(self) -> list[Path]:
        folders = (self.layout.blobs, self.layout.artifacts, self.layout.builds)
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    layout = Layout(tmp_path / "data")
    for folder in (layout.blobs, layout.artifacts, layout.builds):
        folder.mkdir(parents=True)
    database = Database(database_url, DatabaseSettings())
    accounts = PostgresAccountStore(database)
    for organization in (ACME, RIVAL):
        await accounts.create_organization(organization.id, organization.name, "")
    bounds = bounds_of(LimitSettings(), ScalingSettings())
    blobs = FileBlobStore(layout.blobs)
    limits = ArchiveLimits(archive_bytes=10**6, unpacked_bytes=10**6, entries=100, ratio=100)
    sources = Sources(blobs, bounds, lambda content: inspect(content, limits))
    yield House(
        database=database,
        layout=layout,
        blobs=blobs,
        shelves=(BlobShelf(layout.blobs), ArtifactShelf(layout), WorkFolderShelf(layout)),
        apps=Apps(database, sources, bounds, apps_per_organization=1000),
        drafts=Drafts(database, sources, bounds),
    )
    await database.close()


async def test_what_rows_refer_to_stays_however_old(house: House) -> None:
    web = await house.app("web")
    await house.save(web)
    await house.drafts.publish(web)
    artifact = await house.build()
    waiting = await house.app("waiting")
    await house.save(waiting, b"def handler(p, c): return 1\n")
    await house.drafts.compile(waiting)
    before = house.files()
    for _ in range(5):
        assert not any(removed.count for removed in (await house.clean()).values())
    assert house.files() == before
    assert artifact.is_dir()
    assert await house.missing() == []


async def test_the_files_of_a_deleted_app_go_after_the_grace(house: House) -> None:
    web, twin = await house.app("web"), await house.app("web", RIVAL)
    for ref in (web, twin):
        await house.save(ref)
        await house.drafts.publish(ref)
        await house.build()
    await house.apps.delete(web)
    removed = await house.clean()
    assert removed[ShelfKind.BLOB].count == removed[ShelfKind.ARTIFACT].count == 1
    assert removed[ShelfKind.BLOB].size_bytes == len(HANDLER)
    assert removed[ShelfKind.ARTIFACT].size_bytes > 0
    # Equal code of another organisation is its own.
    assert await house.missing() == []
    assert len(house.files()) == 2
    assert [path.name for path in house.layout.blobs.iterdir()] == [RIVAL.name]
    assert len(list(house.layout.artifacts.iterdir())) == 1
    text = render(house.registry).decode()  # type: ignore[arg-type]
    assert 'ignite_janitor_removed_total{kind="blob"} 1.0' in text
    assert f'ignite_janitor_freed_bytes_total{{kind="blob"}} {len(HANDLER)}.0' in text


async def test_one_app_of_two_with_equal_code_keeps_it(house: House) -> None:
    one, two = await house.app("one"), await house.app("two")
    for ref in (one, two):
        await house.save(ref)
    await house.drafts.publish(one)
    await house.build()
    await house.drafts.publish(two)
    await house.apps.delete(one)
    await house.clean()
    assert await house.missing() == []
    assert len(house.files()) >= 1


async def test_a_replaced_draft_loses_its_source_but_a_published_one_keeps_it(
    house: House,
) -> None:
    web = await house.app("web")
    old = await house.save(web, b"a = 1\n")
    published = await house.save(web, b"b = 1\n")
    await house.drafts.publish(web)
    await house.build()
    new = await house.save(web, b"c = 1\n")
    removed = await house.clean()
    assert removed[ShelfKind.BLOB].count == 1
    for digest, is_kept in ((old, False), (published, True), (new, True)):
        path = house.layout.blobs / "acme" / digest[:2] / digest[2:]
        assert path.exists() is is_kept


async def test_saved_again_within_the_grace_it_stays(house: House) -> None:
    web = await house.app("web")
    blob = await house.save(web, b"a = 1\n")
    await house.save(web, b"b = 1\n")
    await house.janitor.round()
    # Stored by somebody who has not written his row yet, and who takes his time.
    await house.blobs.put(ACME.name, b"a = 1\n")
    house.clock.forward(GRACE.total_seconds() + 1)
    await house.janitor.round()
    assert await house.blobs.get(ACME.name, blob) == b"a = 1\n"
    # His row does not come, and now it is as old as any.
    house.clock.forward(GRACE.total_seconds() + 1)
    await house.janitor.round()
    house.clock.forward(GRACE.total_seconds() + 1)
    removed = await house.janitor.round()
    assert removed[ShelfKind.BLOB].count == 0
    assert not any(path.read_bytes() == b"a = 1\n" for path in house.files())


async def test_what_is_young_is_not_even_looked_at(house: House) -> None:
    house.clock.now = datetime.now(UTC)
    await house.blobs.put(ACME.name, b"nobody's")
    await house.janitor.round()
    # A day by the clock that cannot be set, and none by the one on the wall.
    earlier = house.clock.now
    house.clock.forward(86_400)
    monotonic = house.clock.monotonic()
    house.clock.now = earlier
    house.janitor._monotonic = lambda: monotonic
    assert (await house.janitor.round())[ShelfKind.BLOB] == Removed()
    assert len(house.files()) == 1


async def test_a_restart_of_the_janitor_starts_the_grace_anew(house: House) -> None:
    await house.blobs.put(ACME.name, b"nobody's")
    await house.janitor.round()
    house.clock.forward(GRACE.total_seconds() + 1)
    house.janitor = house.another_janitor()
    assert (await house.janitor.round())[ShelfKind.BLOB] == Removed()
    house.clock.forward(GRACE.total_seconds() + 1)
    assert (await house.janitor.round())[ShelfKind.BLOB].count == 1


async def test_a_work_folder_goes_when_its_build_has_ended(house: House) -> None:
    web = await house.app("web")
    await house.save(web)
    build = await house.drafts.compile(web)
    folders = [house.layout.builds / f"{name}-ab1_" for name in (build.id, "bld_gone", "stray")]
    for folder in folders:
        (folder / "src").mkdir(parents=True)
        (folder / "src/file").write_text("x")
    assert (await house.clean())[ShelfKind.WORK_FOLDER].count == 2
    assert [folder.exists() for folder in folders] == [True, False, False]
    await house.build()
    assert (await house.clean())[ShelfKind.WORK_FOLDER].count == 1
    assert list(house.layout.builds.iterdir()) == []


async def test_old_builds_go_with_their_artifacts_and_those_of_versions_lose_lines(
    house: House,
) -> None:
    web = await house.app("web")
    await house.save(web, b"a = 1\n")
    await house.drafts.publish(web)
    served = await house.build(lines=50)
    await house.save(web, b"b = 1\n")
    await house.drafts.compile(web)
    never_served = await house.build(lines=50)
    await house.save(web, b"c = 1\n")
    await house.drafts.compile(web)
    house.clock.now = datetime.now(UTC) + RULES.build_log_age - timedelta(minutes=1)
    first = await house.janitor.round()
    assert (first["build"], first["build_line"]) == (Removed(), Removed())
    house.clock.forward(120)
    second = await house.janitor.round()
    assert (second["build"].count, second["build_line"].count) == (1, 49)
    assert await house.rows("SELECT number, message FROM build_lines") == [(50, "line 50")]
    third = await house.janitor.round()
    assert (third["build"], third["build_line"]) == (Removed(), Removed())
    assert never_served.exists()
    house.clock.forward(GRACE.total_seconds() + 1)
    fourth = await house.janitor.round()
    assert fourth[ShelfKind.ARTIFACT].count == 1
    assert served.exists()
    assert not never_served.exists()
    assert await house.missing() == []
    # The build that waits is as old by now and stays.
    assert len(await house.rows("SELECT id FROM builds WHERE state = 'pending'")) == 1


async def test_more_than_a_page_is_removed_in_one_round(house: House) -> None:
    folder = house.layout.blobs / "acme"
    for at in range(2500):
        digest = hashlib.sha256(str(at).encode()).hexdigest()
        (folder / digest[:2]).mkdir(parents=True, exist_ok=True)
        (folder / digest[:2] / digest[2:]).touch()
    web = await house.app("web")
    await house.save(web)
    assert (await house.clean())[ShelfKind.BLOB].count == 2500
    assert await house.missing() == []


async def test_one_thing_that_cannot_be_removed_stops_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digests = [await house.blobs.put(ACME.name, bytes([at])) for at in range(5)]
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == digests[2][2:]:
            raise PermissionError(1, "no")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    assert (await house.clean())[ShelfKind.BLOB].count == 4
    assert "not removed" in caplog.text
    monkeypatch.setattr(Path, "unlink", real)
    assert (await house.janitor.round())[ShelfKind.BLOB].count == 1


async def test_without_a_database_nothing_is_removed_and_the_janitor_lives(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.blobs.put(ACME.name, b"nobody's")
    await house.janitor.round()
    house.clock.forward(GRACE.total_seconds() + 1)

    async def away(*_: object) -> frozenset[str]:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(References, "among", away)
    with pytest.raises(Unavailable):
        await house.janitor.round()
    assert len(house.files()) == 1


async def test_rounds_go_on_after_any_failure(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await house.blobs.put(ACME.name, b"nobody's")
    failures: list[Exception] = [Unavailable("away"), ValueError("a bug"), OSError(5, "disk")]
    real = References.among

    async def failing(self: References, kind: ShelfKind, keys: Sequence[str]) -> Collection[str]:
        if failures:
            raise failures.pop()
        house.clock.forward(GRACE.total_seconds() + 1)
        return await real(self, kind, keys)

    gone = asyncio.Event()

    class Telling(BlobShelf):
        async def remove(self, kept: Kept) -> Removed:
            removed = await super().remove(kept)
            gone.set()
            return removed

    monkeypatch.setattr(References, "among", failing)
    janitor = house.another_janitor(
        [Telling(house.layout.blobs)], replace(RULES, interval=timedelta(milliseconds=5))
    )
    async with asyncio.TaskGroup() as group:
        working = group.create_task(janitor.run(lambda: None))
        async with asyncio.timeout(20):
            await gone.wait()
        working.cancel()
    assert house.files() == []
    assert not failures
    assert "ignite_janitor_failures_total 3.0" in render(house.registry).decode()  # type: ignore[arg-type]
    assert caplog.text.count("janitor: round") == 3


async def test_without_an_interval_nothing_is_ever_looked_at(house: House) -> None:
    class Untouched(BlobShelf):
        async def tidy(self) -> Removed:
            raise AssertionError("looked at")

    janitor = house.another_janitor(
        [Untouched(house.layout.blobs)], replace(RULES, interval=timedelta(0))
    )
    async with asyncio.TaskGroup() as group:
        idle = group.create_task(janitor.run(lambda: None))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not idle.done()
        idle.cancel()


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {"timeout_secs": 9000}},
        {"build": {"timeout_secs": 9000}},
        {"database": {"statement_timeout_secs": 9000}},
        {"janitor": {"grace_secs": 9000}},
    ],
)
def test_the_grace_outlasts_whoever_could_need_a_thing(change: dict[str, Any]) -> None:
    least = _janitor_rules(Settings.load({}, {"janitor": {"grace_secs": 300}})).grace
    assert least > timedelta(seconds=LimitSettings().timeout_secs)
    assert _janitor_rules(Settings.load({}, change)).grace >= timedelta(seconds=9000)


class Aging:
    """A shelf whose things are as old as a clock of the test says, since they were first met."""

    def __init__(self, shelf: Shelf, clock: ManualClock) -> None:
        self.kind = shelf.kind
        self._shelf = shelf
        self._clock = clock
        self._met: dict[tuple[str, tuple[int, int]], float] = {}

    async def page(self, *, after: str, limit: int) -> Sequence[Kept]:
        page = await self._shelf.page(after=after, limit=limit)
        now = self._clock().timestamp()
        return [
            replace(kept, modified_at=self._met.setdefault((kept.key, kept.stamp), now))
            for kept in page
        ]

    async def remove(self, kept: Kept) -> Removed:
        return await self._shelf.remove(kept)

    async def tidy(self) -> Removed:
        return await self._shelf.tidy()


@dataclass(slots=True)
class Calls:
    """Calls under way, and the time that passes: none of them takes as long as the grace."""

    clock: ManualClock
    under_way: set[object] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def do(self, call: Awaitable[object]) -> None:
        me = object()
        self.under_way.add(me)
        try:
            await call
        except IgniteError:
            pass  # another worker was first; the API would say so
        finally:
            self.under_way.discard(me)
            async with self.changed:
                self.changed.notify_all()

    async def pass_time(self) -> None:
        """Let less than the grace pass once all have ended that were there the last time."""
        before = frozenset(self.under_way)
        async with self.changed:
            await self.changed.wait_for(lambda: not (before & self.under_way))
        self.clock.forward(GRACE.total_seconds() * 0.6)


@dataclass(slots=True, kw_only=True)
class Race:
    """Workers that save, compile, publish and delete, and janitors, all at once.

    There are few sources, so that most come back to life again and again.
    """

    house: House
    chance: random.Random
    calls: Calls
    refs: Sequence[AppRef]
    janitors: Sequence[Janitor]
    removed: dict[str, int] = field(default_factory=dict)
    saves: int = 0
    is_over: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for janitor in self.janitors:
                group.create_task(self._keep_house(janitor))
            group.create_task(self._pass_time())
            group.create_task(self._check())
            async with asyncio.TaskGroup() as workers:
                for _ in range(4):
                    workers.create_task(self._work())
            self.is_over = True

    async def _work(self) -> None:
        for _ in range(60):
            await self.calls.do(self._any_call())

    def _any_call(self) -> Awaitable[object]:
        house, ref = self.house, self.chance.choice(self.refs)
        match self.chance.choices("csbpwd", (25, 35, 10, 10, 12, 8))[0]:
            case "c":
                organization = ACME if ref.organization == ACME.name else RIVAL
                return house.apps.create(organization, ref.name, AppConfig(), None)
            case "s":
                self.saves += 1
                return house.save(ref, f"x = {self.chance.randrange(4)}\n".encode())
            case "b":
                return house.drafts.compile(ref)
            case "p":
                return house.drafts.publish(ref)
            case "w":
                return self._build()
            case _:
                return house.apps.delete(ref)

    async def _build(self) -> None:
        if await self.house.rows("SELECT 1 FROM builds WHERE state = 'pending'"):
            with contextlib.suppress(NothingWaits):
                await self.house.build()

    async def _keep_house(self, janitor: Janitor) -> None:
        while not self.is_over:
            for kind, found in (await janitor.round()).items():
                self.removed[kind] = self.removed.get(kind, 0) + found.count
            await asyncio.sleep(0)

    async def _pass_time(self) -> None:
        while not self.is_over:
            await self.calls.pass_time()
            await asyncio.sleep(0)

    async def _check(self) -> None:
        while not self.is_over:
            # Rows may go between the look at them and the look at the files.
            if missing := await self.house.missing():
                assert set(missing).isdisjoint(await self.house.missing())
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_that_rows_refer_to_is_ever_missing(house: House, seed: int) -> None:
    shelves = [Aging(shelf, house.clock) for shelf in house.shelves]
    race = Race(
        house=house,
        chance=random.Random(seed),
        calls=Calls(house.clock),
        refs=[
            AppRef(organization=organization.name, name=name)
            for organization in (ACME, RIVAL)
            for name in ("one", "two", "three")
        ],
        janitors=[house.another_janitor(shelves) for _ in range(2)],
    )
    await race.run()
    assert await house.missing() == []
    assert race.saves > 20
    assert race.removed[ShelfKind.BLOB] > 0
    # In the end all goes that is left.
    for ref in race.refs:
        await race.calls.do(house.apps.delete(ref))
    for _ in range(4):
        house.clock.forward(GRACE.total_seconds() * 2)
        await race.janitors[0].round()
    assert house.files() == []
