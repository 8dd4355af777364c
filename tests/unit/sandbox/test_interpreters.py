"""Finding Pythons: the real ones, and things that only look like one."""

import sys
from pathlib import Path

import pytest

from ignite.sandbox.interpreters import Interpreter, python_interpreters
from ignite.settings import RuntimeSettings


def test_the_one_that_runs_this_is_among_them() -> None:
    prefix = Path(sys.base_prefix)
    found = python_interpreters(RuntimeSettings(python_prefixes=(prefix,)))
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found[minor].prefix == prefix
    assert found[minor].version.startswith(f"{minor}.")
    assert list(found) == sorted(found, key=lambda v: int(v.split(".")[1]), reverse=True)


def test_what_does_not_start_or_lies_about_its_version_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("python3.20", "#!/bin/sh\nexit 1\n"),
        ("python3.21", "#!/bin/sh\necho 3.9.1 cpython\n"),
        ("python3.22", "#!/bin/sh\necho 3.22.1 other\n"),
        ("python3.23", "no program"),
        ("python3.24", "#!/bin/sh\necho 3.24.5 cpython\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    found = python_interpreters(RuntimeSettings(python_prefixes=(tmp_path,)))
    assert found["3.24"].version == "3.24.5"
    assert not {"3.20", "3.21", "3.22", "3.23"} & set(found)


@pytest.mark.parametrize(
    ("prefix", "inner", "is_system"),
    [("/usr", "/usr/bin/python3.11", True), ("/home/x/py", "/opt/python/bin/python3.11", False)],
)
def test_where_it_lies_inside(prefix: str, inner: str, is_system: bool) -> None:
    found = Interpreter(
        path=Path(prefix) / "bin/python3.11",
        prefix=Path(prefix),
        version="3.11.7",
        needs_library_path=not is_system,
    )
    assert (found.inner_path, found.is_system, found.minor) == (inner, is_system, "3.11")
    assert found.inner_env == ({} if is_system else {"LD_LIBRARY_PATH": "/opt/python/lib"})
