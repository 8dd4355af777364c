"""What the fork server loads beforehand, each time in an interpreter of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ignite.runtimes.python import compile as script

RUNTIME = Path(script.__file__).parent
SEEN = """
import json, os, sys, threading
sys.path.insert(0, {runtime!r})
from ignite_zygote import preload
del sys.path[0]
files = set(os.listdir("/proc/self/fd"))
environment = dict(os.environ)
loaded = preload.preload()
app = {app!r}
"""


def run(code: str, app: Path) -> Any:
    """Run `code` behind a preload; return what it leaves in `result`."""
    head = SEEN.format(runtime=str(RUNTIME), app=str(app))
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"{head}\n{code}\nprint(json.dumps(result))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_every_module_of_the_list_is_loaded_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    code = """
result = {
    "missing": [name for name in preload.MODULES if name not in sys.modules],
    "foreign": sorted(name for name in loaded
                      if name.partition(".")[0] not in sys.stdlib_module_names),
    "threads": threading.active_count(),
    "files": sorted(set(os.listdir("/proc/self/fd")) - files),
    "environment": dict(os.environ) == environment,
}
"""
    found = run(code, tmp_path)
    assert found == {
        "missing": [],
        "foreign": [],
        "threads": 1,
        "files": [],
        "environment": True,
    }


@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_an_app_gets_its_own_module(tmp_path: Path, form: str) -> None:
    path = tmp_path / form.format("email")
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine = True\n")
    code = """
import xml.etree.ElementTree
before = sys.modules["decimal"]
preload.forget_hidden(loaded, [app, app + "/.deps"])
sys.path.insert(0, app)
import decimal, email, xml.etree.ElementTree
result = [email.mine, decimal is not before, decimal.Decimal("0.1") + 1 == decimal.Decimal("1.1"),
          hasattr(xml.etree, "ElementTree"), "email.message" in sys.modules]
"""
    assert run(code, tmp_path) == [True, True, True, True, False]


def test_a_package_brings_its_own_module(tmp_path: Path) -> None:
    deps = tmp_path / ".deps"
    deps.mkdir()
    (deps / "decimal.py").write_text("mine = True\n")
    code = """
preload.forget_hidden(loaded, [app, app + "/.deps"])
sys.path[0:0] = [app, app + "/.deps"]
import decimal
result = decimal.mine
"""
    assert run(code, tmp_path) is True


def test_what_is_no_module_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "welcome.html").write_text("hello")
    (tmp_path / "html.txt").write_text("hello")
    (tmp_path / "handler.py").write_text("")
    code = """
before = dict(sys.modules)
preload.forget_hidden(loaded, [app, app + "/.deps", app + "/nowhere"])
result = [name for name in before if sys.modules.get(name) is not before[name]]
"""
    assert run(code, tmp_path) == []
