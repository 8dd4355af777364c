"""Opening folders by paths that a less trusted caller names."""

import os
from pathlib import Path

import pytest

from ignite.domain.errors import InvalidArgument
from ignite.sandbox.paths import open_folder, open_parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/file").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/a/inner").symlink_to("b")
    return tmp_path / "root"


def test_a_folder_below_is_opened(root: Path) -> None:
    opened = open_folder(f"{root}/a/b", [root], field="path")
    assert os.path.samestat(os.fstat(opened), (root / "a/b").stat())
    os.close(opened)


@pytest.mark.parametrize(
    "path",
    [
        "{root}",
        "{root}/",
        "{root}/a/",
        "{root}/./a",
        "{root}/a/../a",
        "{root}/../outside",
        "{root}/link",
        "{root}/a/inner",
        "{root}/file",
        "{root}/none",
        "{root}/a\0b",
        "{root}x/a",
        "/etc",
        "a",
        "",
    ],
)
def test_anything_else_is_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_folder(path.format(root=root), [root], field="artifact_path")
    assert caught.value.field == "artifact_path"


def test_what_was_opened_stays_when_the_name_moves(root: Path) -> None:
    opened = open_folder(f"{root}/a/b", [root], field="path")
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to("/etc")
    assert os.path.samestat(os.fstat(opened), (root / "moved/b").stat())
    os.close(opened)


def test_the_parent_of_what_is_not_there_yet(root: Path) -> None:
    parent, name = open_parent(f"{root}/new", [root], field="path")
    os.close(parent)
    assert name == "new"
    parent, name = open_parent(f"{root}/a/new", [root], field="path")
    assert os.path.samestat(os.fstat(parent), (root / "a").stat())
    os.close(parent)
    with pytest.raises(InvalidArgument):
        open_parent(f"{root}/link/new", [root], field="path")
