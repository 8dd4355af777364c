"""Removing trees that somebody else made."""

import os
from pathlib import Path

import pytest

from ignite.spawner.outputs import (
    MAX_DEPTH,
    OutputBounds,
    OutputRefused,
    TreeTooDeep,
    size_of,
    take_over,
)
from ignite.spawner.removal import remove_tree


def dig(folder: Path, depth: int) -> None:
    """Make folders inside each other, without the help of paths."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    return made


class TestRemoval:
    def test_depth_does_not_matter(self, tree: Path) -> None:
        dig(tree, 2500)
        remove_tree(tree)
        assert not tree.exists()

    def test_names_that_are_used_to_move_may_be_there(self, tree: Path) -> None:
        for name in (".0", ".1", ".2", "a/.0", "a/.1/.2", "a/.2/.2/.0"):
            (tree / name).mkdir(parents=True, exist_ok=True)
            (tree / name / "file").touch()
        remove_tree(tree)
        assert not tree.exists()

    def test_links_are_not_followed(self, tree: Path, tmp_path: Path) -> None:
        kept = tmp_path / "kept"
        kept.mkdir()
        (kept / "file").touch()
        (tree / "a").mkdir()
        (tree / "a" / "link").symlink_to(kept)
        (tree / "link").symlink_to(kept)
        remove_tree(tree)
        assert not tree.exists()
        assert (kept / "file").exists()

    def test_a_link_itself_is_no_tree(self, tree: Path, tmp_path: Path) -> None:
        (tree / "file").touch()
        (tmp_path / "link").symlink_to(tree)
        remove_tree(tmp_path / "link")
        assert (tree / "file").exists()

    def test_missing_rights_are_taken_back(self, tree: Path) -> None:
        inner = tree / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").touch()
        for path in (inner, inner.parent, tree):
            path.chmod(0)
        remove_tree(tree)
        assert not tree.exists()

    def test_what_is_not_there_is_no_error(self, tree: Path) -> None:
        remove_tree(tree / "nothing")
        at = os.open(tree, os.O_RDONLY)
        remove_tree("nothing", dir_fd=at)
        os.close(at)


class TestDepth:
    def test_a_deep_tree_is_neither_measured_nor_taken(self, tree: Path) -> None:
        dig(tree, 2500)
        root = os.open(tree, os.O_RDONLY)
        with pytest.raises(TreeTooDeep):
            size_of(root, most_bytes=1 << 30)
        with pytest.raises(OutputRefused, match="deep"):
            take_over(root, OutputBounds(most_bytes=1 << 30), None)
        os.close(root)
        remove_tree(tree)

    def test_one_at_the_bound_is(self, tree: Path) -> None:
        dig(tree, MAX_DEPTH)
        root = os.open(tree, os.O_RDONLY)
        assert size_of(root, most_bytes=1 << 30) > 0
        assert take_over(root, OutputBounds(most_bytes=1 << 30), None) == 0
        os.close(root)
