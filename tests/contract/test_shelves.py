"""What every Shelf promises, and what those on files promise when they race or are broken off."""

import asyncio
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ignite import locks
from ignite.blobs.files import FileBlobStore
from ignite.blobs.shelf import BlobShelf
from ignite.builders.shelves import ArtifactShelf, WorkFolderShelf
from ignite.domain.identity import OrganizationName
from ignite.layout import Layout
from ignite.locks import FolderBusy, FolderLock
from ignite.ports.shelves import Kept, Removed, Shelf

ACME, RIVAL = OrganizationName("acme"), OrganizationName("rival")


@dataclass(frozen=True)
class Stocked:
    """A shelf, how to put content there (or keep it), and whether it is there."""

    shelf: Shelf
    put: Callable[[str, str], str]
    path: Callable[[str], Path]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "data")
    for folder in (found.artifacts, found.builds, found.blobs):
        folder.mkdir(parents=True)
    return found


def blobs(layout: Layout) -> Stocked:
    store = FileBlobStore(layout.blobs)

    def put(organization: str, name: str) -> str:
        digest = asyncio.run(store.put(OrganizationName(organization), name.encode()))
        return f"{organization}/{digest}"

    def path(key: str) -> Path:
        organization, digest = key.split("/")
        return layout.blobs / organization / digest[:2] / digest[2:]

    return Stocked(BlobShelf(layout.blobs), put, path)


def artifacts(layout: Layout) -> Stocked:
    shelf = ArtifactShelf(layout)

    def put(organization: str, name: str) -> str:
        target = layout.artifact(organization, hashlib.sha256(name.encode()).hexdigest())
        if not shelf.keep(target):
            made = layout.builds / f"{organization}-{name}"
            made.mkdir()
            (made / "handler.py").write_text(name)
            (made / "deep/er").mkdir(parents=True)
            shelf.put(made, target)
        return str(target.relative_to(layout.artifacts))

    return Stocked(shelf, put, lambda key: layout.artifacts / key)


def work_folders(layout: Layout) -> Stocked:
    def put(organization: str, name: str) -> str:
        made = layout.builds / f"bld_{organization}{name}-x1"
        made.mkdir(exist_ok=True)
        (made / "src").mkdir(exist_ok=True)
        (made / "src" / str(time.time_ns())).write_text(name)
        os.utime(made)
        return made.name

    return Stocked(WorkFolderShelf(layout), put, lambda key: layout.builds / key)


@pytest.fixture(params=[blobs, artifacts, work_folders], ids=lambda make: make.__name__)
def stocked(request: pytest.FixtureRequest, layout: Layout) -> Stocked:
    made: Stocked = request.param(layout)
    return made


def all_of(shelf: Shelf, limit: int = 1000) -> list[Kept]:
    async def walk() -> list[Kept]:
        found: list[Kept] = []
        while page := await shelf.page(after=found[-1].key if found else "", limit=limit):
            assert len(page) <= limit
            found += page
        return found

    return asyncio.run(walk())


def remove(shelf: Shelf, kept: Kept) -> Removed:
    return asyncio.run(shelf.remove(kept))


def test_pages_of_any_size_show_each_thing_once(stocked: Stocked) -> None:
    keys = {stocked.put(org, f"n{at}") for org in (ACME, RIVAL, "x-rival") for at in range(30)}
    for limit in (1, 7, 90, 1000):
        found = [kept.key for kept in all_of(stocked.shelf, limit)]
        assert sorted(found) == sorted(keys)


def test_an_empty_shelf_has_no_page(stocked: Stocked, layout: Layout) -> None:
    assert all_of(stocked.shelf) == []
    for folder in (layout.blobs, layout.artifacts, layout.builds):
        folder.rmdir()
    assert all_of(stocked.shelf) == []


def test_what_is_removed_is_gone_and_counted(stocked: Stocked) -> None:
    key, other = stocked.put(ACME, "one"), stocked.put(RIVAL, "one")
    (kept,) = (kept for kept in all_of(stocked.shelf) if kept.key == key)
    removed = remove(stocked.shelf, kept)
    assert removed.count == 1
    assert removed.size_bytes > 0
    assert not stocked.path(key).exists()
    assert stocked.path(other).exists()
    assert remove(stocked.shelf, kept) == Removed()
    assert [kept.key for kept in all_of(stocked.shelf)] == [other]


def test_what_was_kept_once_more_is_not_removed(stocked: Stocked) -> None:
    key = stocked.put(ACME, "one")
    (before,) = all_of(stocked.shelf)
    assert stocked.put(ACME, "one") == key
    assert remove(stocked.shelf, before) == Removed()
    assert stocked.path(key).exists()
    (after,) = all_of(stocked.shelf)
    assert after.stamp != before.stamp
    assert remove(stocked.shelf, after).count == 1


def test_what_was_removed_can_be_put_anew(stocked: Stocked) -> None:
    for _ in range(3):
        key = stocked.put(ACME, "one")
        assert stocked.path(key).exists()
        (kept,) = all_of(stocked.shelf)
        assert remove(stocked.shelf, kept).count == 1


def test_folders_of_nobody_go_with_the_last_thing(layout: Layout) -> None:
    for made, root in ((blobs(layout), layout.blobs), (artifacts(layout), layout.artifacts)):
        for name in ("one", "two"):
            made.put(ACME, name)
        for kept in all_of(made.shelf):
            assert remove(made.shelf, kept).count == 1
        assert list(root.iterdir()) == []


@pytest.mark.parametrize("make", [blobs, artifacts])
def test_a_shelf_in_use_is_left_alone(make: Callable[[Layout], Stocked], layout: Layout) -> None:
    stocked = make(layout)
    key = stocked.put(ACME, "one")
    (kept,) = all_of(stocked.shelf)
    root = layout.blobs if make is blobs else layout.artifacts
    with FolderLock(root).shared(), pytest.raises(FolderBusy):
        remove(stocked.shelf, kept)
    assert stocked.path(key).exists()


@pytest.mark.parametrize("make", [blobs, artifacts])
def test_a_removal_broken_off_anywhere_leaves_a_whole_thing_or_none(
    make: Callable[[Layout], Stocked], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may end at any system call that changes something."""

    class Died(BaseException):
        pass

    left = 0
    real = {name: getattr(os, name) for name in ("unlink", "rmdir", "rename")}

    def dying(name: str) -> Callable[..., object]:
        def step(*args: object, **more: object) -> object:
            nonlocal left
            if left == 0:
                raise Died
            left -= 1
            return real[name](*args, **more)

        return step

    for name in real:
        monkeypatch.setattr(os, name, dying(name))
    stocked = make(layout)
    for steps in range(20):
        left = 1000
        key = stocked.put(ACME, "one")
        whole = stocked.path(key)
        (kept,) = all_of(stocked.shelf)
        left = steps
        died = False
        try:
            # In this thread: the death must not be caught by an event loop.
            stocked.shelf._remove(kept)  # type: ignore[attr-defined]
        except Died:
            died = True
        left = 1000
        if whole.exists():
            if whole.is_dir():
                assert (whole / "handler.py").read_text() == "one"
                assert (whole / "deep/er").is_dir()
            else:
                assert whole.read_bytes() == b"one"
        asyncio.run(stocked.shelf.tidy())
        assert [kept.key for kept in all_of(stocked.shelf)] == ([key] if whole.exists() else [])
        if not died:
            break
    else:
        pytest.fail("a removal takes more steps than were tried")
    assert steps > 0
    assert list(layout.artifacts.rglob(".gone*")) == []


def test_drafts_that_died_go_and_those_under_way_stay(layout: Layout) -> None:
    stocked = blobs(layout)
    stocked.put(ACME, "one")
    old, young = (layout.blobs / f"acme/.draft-{name}" for name in ("old", "young"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert asyncio.run(stocked.shelf.tidy()) == Removed(count=1, size_bytes=4)
    assert not old.exists()
    assert young.exists()
    assert len(all_of(stocked.shelf)) == 1


def test_folders_without_rights_are_removed_or_left_and_never_stop_the_walk(
    layout: Layout,
) -> None:
    stocked = artifacts(layout)
    key = stocked.put(ACME, "one")
    stocked.path(key).chmod(0o500)
    (kept,) = all_of(stocked.shelf)
    remove(stocked.shelf, kept)
    assert all_of(stocked.shelf) == []
    shutil.rmtree(layout.artifacts)


async def test_puts_and_removals_at_once_never_lose_what_was_put_last(layout: Layout) -> None:
    """A put that has returned, with no removal begun from a look after it, is there."""
    store, shelf = FileBlobStore(layout.blobs), BlobShelf(layout.blobs)
    ends = asyncio.get_running_loop().time() + 2
    removed = Removed()
    puts = 0

    async def put() -> None:
        nonlocal puts
        while asyncio.get_running_loop().time() < ends:
            async with looking:
                # From here no new look at the shelf begins; removals from older looks go on.
                digest = await store.put(ACME, b"content")
                await asyncio.sleep(0)
                assert await store.get(ACME, digest) == b"content"
                puts += 1
            await asyncio.sleep(0)

    async def take_away() -> None:
        nonlocal removed
        while asyncio.get_running_loop().time() < ends:
            async with looking:
                page = await shelf.page(after="", limit=10)
            for kept in page:
                removed += await shelf.remove(kept)
            await asyncio.sleep(0)

    looking = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        for _ in range(3):
            group.create_task(take_away())
    assert puts > 10
    assert removed.count > 10


def test_a_folder_that_cannot_be_read_stops_no_walk(
    stocked: Stocked, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {stocked.put(ACME, "one"), stocked.put(ACME, "two")}
    for root in (layout.blobs, layout.artifacts, layout.builds):
        (root / "+lost").mkdir(parents=True, exist_ok=True)
    real = os.listdir

    def listdir(folder: Any) -> list[str]:
        if Path(folder).name == "+lost":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    found = {kept.key for kept in all_of(stocked.shelf)}
    assert keys <= found


def test_who_waits_for_a_lock_waits_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SHARED_WAIT_SECS", 0.05)
    lock = FolderLock(tmp_path)
    with lock.alone():
        with pytest.raises(FolderBusy), lock.shared():
            raise AssertionError("held by two")
        with pytest.raises(FolderBusy), lock.alone(wait_secs=0.05):
            raise AssertionError("held by two")
    with lock.shared(), lock.shared():
        pass
