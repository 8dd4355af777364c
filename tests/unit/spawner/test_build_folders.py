"""Folders of compiles, and the caches of organisations."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ignite.layout import Layout
from ignite.sandbox.uids import UidPool
from ignite.spawner.build_folders import BuildFolders


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
