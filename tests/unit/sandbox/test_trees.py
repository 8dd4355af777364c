"""Detached mounts: what is asked for is what they allow."""

import os
from pathlib import Path

import pytest
from tests.support.spawner import needs_root

from ignite.sandbox.trees import detached_tree

pytestmark = needs_root


def flags(tree: int) -> int:
    return os.fstatvfs(tree).f_flag


def test_a_folder_is_read_only_unless_asked(tmp_path: Path) -> None:
    for is_writable in (False, True):
        tree = detached_tree(tmp_path, is_writable=is_writable)
        assert bool(flags(tree) & os.ST_RDONLY) is not is_writable
        assert flags(tree) & os.ST_NOSUID
        assert flags(tree) & os.ST_NODEV
        os.close(tree)


def test_a_descriptor_stays_the_folder_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").touch()
    folder = os.open(tmp_path / "old", os.O_PATH)
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "old").mkdir()
    tree = detached_tree(folder, is_writable=False)
    assert os.listdir(f"/proc/self/fd/{tree}") == ["file"]
    for descriptor in (folder, tree):
        os.close(descriptor)


def test_what_is_not_there_is_an_error_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        detached_tree(tmp_path / "missing", is_writable=False)
    assert len(os.listdir("/proc/self/fd")) == before
