"""Folders of compiles, and the caches of organisations."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ignite.layout import Layout
from ignite.sandbox.uids import UidPool, UidsExhausted
from ignite.spawner.build_folders import BuildFolders, Trimmed


@pytest.fixture
def folders(tmp_path: Path) -> BuildFolders:
    made = BuildFolders(Layout(data=tmp_path), UidPool(first=1, size=1), is_root=False)
    made.open()
    return made


def test_one_build_at_a_time_has_an_id(folders: BuildFolders) -> None:
    made = folders.make("one", "org")
    with pytest.raises(FileExistsError):
        folders.make("one", "org")
    folders.remove(made)
    folders.remove(folders.make("one", "org"))


def test_a_cache_is_kept_and_shared_by_one_organisation(folders: BuildFolders) -> None:
    first = folders.make("one", "org")
    (first.cache / "file").touch()
    folders.remove(first)
    assert (folders.make("two", "org").cache / "file").exists()
    assert list(folders.make("three", "other").cache.iterdir()) == []


def test_many_at_once_share_one_cache(folders: BuildFolders) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        made = list(pool.map(lambda number: folders.make(f"b{number}", "org"), range(32)))
    assert len({one.cache for one in made}) == 1


def test_a_cache_too_large_is_emptied_when_nobody_uses_it(tmp_path: Path) -> None:
    folders = BuildFolders(
        Layout(data=tmp_path), UidPool(first=1, size=1), is_root=False, kept_cache_bytes=10_000
    )
    folders.open()
    first, second = folders.make("one", "org"), folders.make("two", "org")
    (first.cache / "folder").mkdir()
    (first.cache / "folder/file").write_bytes(b"x" * 20_000)
    (first.cache / "link").symlink_to("/etc")
    folders.remove(first)
    assert (second.cache / "folder/file").exists()
    folders.remove(second)
    assert list(second.cache.iterdir()) == []
    assert Path("/etc").exists()


def test_leftovers_of_an_earlier_spawner_are_removed(folders: BuildFolders) -> None:
    made = folders.make("one", "org")
    (made.cache / "file").touch()
    folders.open()
    assert not made.root.exists()
    assert (made.cache / "file").exists()


DAY = 86_400
GIB = 1024**3


def fill(folders: BuildFolders, layout: Layout, name: str, size: int, days: float) -> Path:
    """Make a cache of some size that was used some days ago."""
    made = folders.make(f"b-{name}", name)
    (made.cache / "packages").mkdir(exist_ok=True)
    (made.cache / "packages/file").write_bytes(b"x" * size)
    folders.remove(made)
    used_at = time.time() - days * DAY
    os.utime(layout.replicas / ".cache-uses" / name, (used_at, used_at))
    return made.cache


def test_caches_unused_for_long_are_removed(folders: BuildFolders, tmp_path: Path) -> None:
    layout = Layout(data=tmp_path)
    old, young = fill(folders, layout, "old", 10_000, 31), fill(folders, layout, "young", 10, 29)
    # Its own time is the tenant's to set.
    os.utime(old)
    trimmed = folders.trim(most_bytes=GIB, most_age_secs=30 * DAY)
    assert trimmed.count == 1
    assert trimmed.size_bytes >= 10_000
    assert not old.exists()
    assert young.exists()
    assert list((layout.replicas / ".builds").iterdir()) == []
    assert folders.trim(most_bytes=GIB, most_age_secs=30 * DAY) == Trimmed()


def test_of_too_many_bytes_those_go_that_were_unused_for_longest(
    folders: BuildFolders, tmp_path: Path
) -> None:
    layout = Layout(data=tmp_path)
    caches = [fill(folders, layout, f"org{at}", 100_000, days=5 - at) for at in range(5)]
    # Two fit, with the folders around their files.
    assert folders.trim(most_bytes=250_000, most_age_secs=30 * DAY).count == 3
    assert [cache.exists() for cache in caches] == [False, False, False, True, True]


def test_a_cache_in_use_is_not_removed(folders: BuildFolders, tmp_path: Path) -> None:
    layout = Layout(data=tmp_path)
    cache = fill(folders, layout, "org", 100_000, days=100)
    made = folders.make("now", "org")
    os.utime(layout.replicas / ".cache-uses/org", (0, 0))
    assert folders.trim(most_bytes=0, most_age_secs=1) == Trimmed()
    assert (cache / "packages/file").exists()
    folders.remove(made)
    assert folders.trim(most_bytes=0, most_age_secs=1).count == 1


def test_caches_of_an_earlier_release_count_as_used_at_the_start(tmp_path: Path) -> None:
    layout = Layout(data=tmp_path)
    (layout.replicas / ".caches/org").mkdir(parents=True)
    (layout.replicas / ".cache-uses").mkdir()
    (layout.replicas / ".cache-uses/gone").touch()
    folders = BuildFolders(layout, UidPool(first=1, size=1), is_root=False)
    folders.open()
    assert [use.name for use in (layout.replicas / ".cache-uses").iterdir()] == ["org"]
    assert folders.trim(most_bytes=GIB, most_age_secs=DAY) == Trimmed()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give caches owners")
def test_the_uid_of_a_cache_that_went_is_free_again(tmp_path: Path) -> None:
    layout = Layout(data=tmp_path)
    folders = BuildFolders(layout, UidPool(first=300_000, size=1), is_root=True)
    folders.open()
    fill(folders, layout, "one", 10, days=100)
    with pytest.raises(UidsExhausted):
        folders.make("b", "two")
    assert folders.trim(most_bytes=GIB, most_age_secs=DAY).count == 1
    assert folders.make("c", "two").uid == 300_000


def test_compiles_and_trims_at_once_never_meet(folders: BuildFolders, tmp_path: Path) -> None:
    def compile_one(number: int) -> None:
        made = folders.make(f"b{number}", f"org{number % 3}")
        (made.cache / str(number)).write_text("mine")
        assert (made.cache / str(number)).read_text() == "mine"
        folders.remove(made)

    with ThreadPoolExecutor(max_workers=8) as pool:
        compiles = [pool.submit(compile_one, number) for number in range(200)]
        while not all(one.done() for one in compiles):
            folders.trim(most_bytes=0, most_age_secs=DAY)
    for one in compiles:
        one.result()
    folders.trim(most_bytes=0, most_age_secs=DAY)
    assert [*(tmp_path / "replicas/.caches").iterdir()] == []
