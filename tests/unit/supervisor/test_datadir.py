"""One server at a time, and never on data of a newer release."""

from pathlib import Path

import pytest

from ignite.layout import DATA_FORMAT, Layout
from ignite.supervisor.datadir import DataDirError, check_format, locked


def test_a_second_server_on_the_same_directory_is_refused_with_the_pid(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    with (
        locked(layout),
        pytest.raises(DataDirError, match=r"another server \(pid \d+\)"),
        locked(layout),
    ):
        pass


def test_the_directory_is_free_again_afterwards(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    for _ in range(2):
        with locked(layout):
            assert layout.lock_file.read_text().strip().isdigit()


def test_a_directory_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.format_file.write_text(f"{DATA_FORMAT + 1}\n")
    with pytest.raises(DataDirError, match="run the newer release"):
        check_format(layout)


def test_a_new_directory_is_marked(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    check_format(layout)
    check_format(layout)
    assert layout.format_file.read_text().strip() == str(DATA_FORMAT)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="cannot use"), locked(Layout(tmp_path / "file" / "x")):
        pass
