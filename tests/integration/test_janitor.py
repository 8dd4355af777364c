"""The janitor over real files and a real Postgres: what goes and what stays."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.house import (
    ACME,
    GRACE,
    HANDLER,
    RIVAL,
    RULES,
    House,
    running_house,
)

from ignite.blobs.shelf import BlobShelf
from ignite.bootstrap.controllers import _janitor_rules
from ignite.db.references import References
from ignite.domain.errors import Unavailable
from ignite.ports.shelves import Kept, Removed, ShelfKind
from ignite.settings import LimitSettings, Settings
from ignite.telemetry.metrics import render


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(database_url, tmp_path) as running:
        yield running


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
