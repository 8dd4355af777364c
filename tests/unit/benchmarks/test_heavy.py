"""The app with heavy imports is one that Python imports, all of it."""

import subprocess
import sys
from pathlib import Path

from benchmarks.heavy import HANDLER, MODULES, PACKAGE, modules


def test_its_handler_imports_every_module(tmp_path: Path) -> None:
    for name, code in {"handler.py": HANDLER, **modules()}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import handler
made = [one for name, one in sys.modules.items() if ".module_" in name]
total = made[7].Class3().method_5(2, "y", 10, None)["total"]
print(len(made), handler.{PACKAGE}.__name__, total)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(MODULES), PACKAGE, "4"]
