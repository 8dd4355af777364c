"""Privileges: a real private mount namespace, seen from inside and from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ignite.privileges import (
    Owner,
    Unreachable,
    make_folder,
    make_reachable,
    program_paths,
    write_private,
)

NOBODY = Owner(name="nobody", uid=65534, gid=65534)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")


def inside(script: str, *args: str) -> dict[str, object]:
    """Run `script` in a process of its own, which prints one JSON object."""
    prelude = """
import json, os, subprocess, sys
from pathlib import Path
from ignite.privileges import Owner, make_reachable, program_paths
NOBODY = Owner(name="nobody", uid=65534, gid=65534)
def as_nobody(*argv, cwd="/"):
    done = subprocess.run(argv, user=65534, group=65534, extra_groups=[], cwd=cwd, text=True,
                          capture_output=True, env={"PYTHONDONTWRITEBYTECODE": "1"})
    return [done.returncode, done.stdout.strip(), done.stderr.strip()]
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + script, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A closed home with an application, a secret and a data folder in it."""
    home = tmp_path / "home"
    (home / "app/bin").mkdir(parents=True)
    (home / "app/bin/tool").write_text("#!/bin/sh\necho works\n")
    (home / "app/bin/tool").chmod(0o755)
    (home / "current").symlink_to("app")
    (home / "secret").write_text("not for them")
    (home / "deep/closed/data").mkdir(parents=True)
    (home / "deep/closed").chmod(0o700)
    os.chown(home / "deep/closed/data", NOBODY.uid, NOBODY.gid)
    home.chmod(0o700)
    return home


@as_root
def test_needed_paths_are_reached_and_the_rest_of_the_home_is_gone(home: Path) -> None:
    seen = inside(
        """
home = Path(sys.argv[1])
os.chdir(home / "app")
needed = [home / "current/bin/tool", home / "deep/closed/data", home / "app"]
hidden = make_reachable(needed, NOBODY)
again = make_reachable(needed, NOBODY)
print(json.dumps({
    "hidden": [str(h) for h in hidden], "again": len(again), "cwd": os.getcwd(),
    "tool": as_nobody(str(home / "current/bin/tool"), cwd=home / "app")[:2],
    "write": as_nobody("/usr/bin/touch", str(home / "deep/closed/data/made"))[0],
    "secret": (home / "secret").exists(), "top": sorted(os.listdir(home)),
    "readonly": subprocess.run(["/usr/bin/touch", home / "x"], capture_output=True).returncode,
    "proc": os.path.exists("/proc/self/status"), "tmp": os.access("/tmp", os.W_OK),
}))
""",
        str(home),
    )
    assert seen == {
        "hidden": [str(_first_closed(home))],
        "again": 0,
        "cwd": str(home / "app"),
        "tool": [0, "works"],
        "write": 0,
        "secret": False,
        "top": ["app", "current", "deep"],
        "readonly": 1,
        "proc": True,
        "tmp": True,
    }


def _first_closed(path: Path) -> Path:
    chain = [*reversed(path.parents), path]
    return next(folder for folder in chain if not folder.stat().st_mode & 0o001)


@as_root
def test_the_host_sees_nothing_of_it(home: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    inside(
        """
make_reachable([Path(sys.argv[1]) / "app"], NOBODY)
(Path(sys.argv[1]) / "app/new").touch()
print("{}")
""",
        str(home),
    )
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (home / "secret").read_text() == "not for them"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "deep/closed").stat().st_mode & 0o777 == 0o700
    assert (home / "app/new").exists()


@as_root
def test_unprivileged_user_runs_this_interpreter_and_imports_the_package(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", NOBODY)
    seen = inside(
        """
data = Path(sys.argv[1])
make_reachable([*program_paths(), data], NOBODY)
code = "import ignite.privileges, ssl, os, sys; open(sys.argv[1] + '/f', 'w').write('x')"
print(json.dumps({"run": as_nobody(sys.executable, "-c", code, str(data)),
                  "home": os.path.exists(os.path.expanduser("~/.bashrc"))}))
""",
        str(data),
    )
    assert seen["run"] == [0, "", ""]
    assert (data / "f").stat().st_uid == NOBODY.uid


@as_root
def test_nothing_is_moved_where_nothing_is_in_the_way() -> None:
    seen = inside(
        """
before = os.readlink("/proc/self/ns/mnt")
hidden = make_reachable([Path("/usr/bin"), Path("/tmp")], NOBODY)
print(json.dumps({"same": before == os.readlink("/proc/self/ns/mnt"), "hidden": len(hidden)}))
"""
    )
    assert seen == {"same": True, "hidden": 0}


@as_root
def test_a_path_that_stays_closed_is_named(home: Path) -> None:
    seen = inside(
        """
home = Path(sys.argv[1])
(home / "app/bin").chmod(0o700)
(home / "app/bin/tool").chmod(0o700)
try:
    make_reachable([home / "app/bin/tool"], NOBODY)
    print("{}")
except Exception as error:
    print(json.dumps({"kind": type(error).__name__, "text": str(error)}))
""",
        str(home),
    )
    assert seen["kind"] == "Unreachable"
    assert str(home / "app/bin/tool") in str(seen["text"])


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does not exist"):
        make_reachable([tmp_path / "absent"], NOBODY)


@as_root
def test_dropping_is_for_good() -> None:
    seen = inside(
        """
from ignite.privileges import drop
drop(NOBODY)
try:
    os.setuid(0)
    back = True
except PermissionError:
    back = False
print(json.dumps({"ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(),
                  "back": back,
                  "nnp": "NoNewPrivs:\\t1" in Path("/proc/self/status").read_text()}))
"""
    )
    assert seen == {"ids": [65534] * 6, "groups": [], "back": False, "nnp": True}


def test_private_file_is_replaced_whole_and_closed_to_others(tmp_path: Path) -> None:
    target = tmp_path / "key"
    target.symlink_to(tmp_path / "elsewhere")
    write_private(target, b"one")
    write_private(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        make_folder(tmp_path / "link")


def test_program_paths_name_interpreter_environment_and_source() -> None:
    paths = program_paths()
    assert Path(sys.executable) in paths
    assert Path(sys.base_prefix) in paths
    assert any((path / "ignite/privileges.py").exists() for path in paths)
