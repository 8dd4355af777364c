"""Trees that compiles leave behind."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.spawner.outputs import OutputBounds, OutputRefused, size_of, take_over

BOUNDS = OutputBounds(most_bytes=1000, most_entries=10)


def take(root: Path, bounds: OutputBounds = BOUNDS) -> int:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return take_over(descriptor, bounds, None)
    finally:
        os.close(descriptor)


def test_modes_are_set_and_the_size_is_told(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/run").write_text("x" * 10)
    (tmp_path / "d/run").chmod(0o4711)
    (tmp_path / "text").write_text("x" * 20)
    (tmp_path / "text").chmod(0o600)
    assert take(tmp_path) == 30
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"d": 0o755, "run": 0o755, "text": 0o644}


def test_links_that_stay_inside_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "l1").symlink_to("a/b/file")
    (tmp_path / "a/b/l2").symlink_to("../../l1")
    (tmp_path / "a/dead").symlink_to("nowhere")
    take(tmp_path)


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../..", "d/../../x", "d/..", "/"])
def test_links_that_could_lead_out_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OutputRefused, match="link"):
        take(tmp_path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OutputRefused, match="neither"):
        take(tmp_path)


def test_bounds_on_bytes_and_entries(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("x" * 1001)
    with pytest.raises(OutputRefused, match="bytes"):
        take(tmp_path)
    (tmp_path / "big").unlink()
    for number in range(11):
        (tmp_path / str(number)).touch()
    with pytest.raises(OutputRefused, match="files"):
        take(tmp_path)


def test_disk_use_stops_beyond_its_bound(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).write_bytes(b"x" * 10_000)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert size_of(descriptor, most_bytes=1_000_000) >= 30_000
    os.close(descriptor)


NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=5).map(
    "/".join
)


@given(folders=st.lists(PLACES, max_size=4), links=st.lists(st.tuples(PLACES, TARGETS), max_size=5))
def test_whatever_is_taken_leads_nowhere_outside(
    tmp_path_factory: pytest.TempPathFactory, folders: list[str], links: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("tree").resolve() / "root"
    root.mkdir()
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place, target in links:
        path = root / place
        is_free = not os.path.lexists(path)
        if is_free and path.parent.is_dir() and path.parent.resolve() == path.parent:
            path.symlink_to(target)
    try:
        take(root)
    except OutputRefused:
        return
    for path in root.rglob("*"):
        if path.is_symlink():
            try:
                real = path.resolve(strict=True)
            except (OSError, RuntimeError):
                continue
            assert real == root or root in real.parents, (path, os.readlink(path))
