"""The script that runs inside the build sandbox, under every Python of this machine."""

import base64
import hashlib
import os
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from ignite.runtimes.python import compile as script
from ignite.sandbox.interpreters import Interpreter, python_interpreters
from ignite.settings import RuntimeSettings

SCRIPT = Path(script.__file__)
GOOD = "def handler(payload, ctx):\n    return payload\n"


def find_uv() -> Path:
    spec = find_spec("uv")
    assert spec is not None
    assert spec.origin is not None
    return next(p / "bin/uv" for p in Path(spec.origin).parents if (p / "bin/uv").is_file())


@pytest.fixture(params=python_interpreters(RuntimeSettings()).values(), ids=lambda one: one.minor)
def python(request: pytest.FixtureRequest) -> Interpreter:
    found: Interpreter = request.param
    return found


@pytest.fixture
def newest() -> Interpreter:
    return next(iter(python_interpreters(RuntimeSettings()).values()))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(
    python: Interpreter, tmp_path: Path, files: dict[str, str], max_bytes: int = 10**7
) -> "subprocess.CompletedProcess[str]":
    write(tmp_path / "src", files)
    (tmp_path / "out").mkdir()
    library = {"LD_LIBRARY_PATH": str(python.prefix / "lib")} if python.needs_library_path else {}
    options = {"source": "src", "output": "out", "cache": "cache"}
    return subprocess.run(
        [
            *(str(python.path), "-I", "-B", str(SCRIPT), "--max-bytes", str(max_bytes)),
            *(f"--{name}={tmp_path / folder}" for name, folder in options.items()),
            f"--uv={find_uv()}",
        ],
        env={"PATH": os.defpath, "HOME": str(tmp_path), "UV_OFFLINE": "1", **library},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_wheel(folder: Path, name: str, version: str, code: str) -> Path:
    """Write a wheel of one module, as a package index would serve it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


class TestArtifact:
    def test_has_source_packages_and_bytecode(self, python: Interpreter, tmp_path: Path) -> None:
        make_wheel(tmp_path / "src", "tiny", "1.0", "X = 'tiny'\n")
        done = run(
            python,
            tmp_path,
            {
                "handler.py": f"import tiny\n{GOOD}",
                "lib/deep/mod.py": "",
                "requirements.txt": "# ours\n./tiny-1.0-py3-none-any.whl\n",
            },
        )
        assert done.returncode == 0, done
        out = tmp_path / "out"
        tag = f"cpython-{python.minor.replace('.', '')}"
        for source in ("handler", "lib/deep/mod", ".deps/tiny"):
            path = out / source
            compiled = path.parent / "__pycache__" / f"{path.name}.{tag}.pyc"
            # Flags 1: by hash, never checked.
            assert compiled.read_bytes()[4:8] == b"\1\0\0\0", source
        assert (
            f"/app/{'.deps/tiny.py'}".encode()
            in (out / f".deps/__pycache__/tiny.{tag}.pyc").read_bytes()
        )
        assert done.stdout.splitlines()[0] == f"Python {python.version}"

    def test_leaves_bytecode_of_the_sender_out(self, newest: Interpreter, tmp_path: Path) -> None:
        done = run(newest, tmp_path, {"handler.py": GOOD, "__pycache__/evil.pyc": "x"})
        assert done.returncode == 0
        assert "evil.pyc" not in [path.name for path in (tmp_path / "out").rglob("*")]

    @pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n  # more\n"])
    def test_empty_requirements_install_nothing(
        self, newest: Interpreter, tmp_path: Path, text: str
    ) -> None:
        done = run(newest, tmp_path, {"handler.py": GOOD, "requirements.txt": text})
        assert done.returncode == 0
        assert not (tmp_path / "out/.deps").exists()

    def test_another_file_that_cannot_be_parsed_is_only_said(
        self, newest: Interpreter, tmp_path: Path
    ) -> None:
        done = run(newest, tmp_path, {"handler.py": GOOD, "old.py": "print 'two'\n"})
        assert done.returncode == 0
        assert "old.py" in done.stdout


class TestFailures:
    def test_a_syntax_error_names_file_and_line(self, python: Interpreter, tmp_path: Path) -> None:
        done = run(python, tmp_path, {"handler.py": "x = 1\ndef handler(:\n    pass\n"})
        assert done.returncode == script.SOURCE_INVALID
        assert done.stderr.startswith("handler.py:2: SyntaxError: ")
        assert "def handler(:" in done.stderr
        assert "Traceback" not in done.stderr

    def test_packages_that_cannot_be_had(self, newest: Interpreter, tmp_path: Path) -> None:
        files = {"handler.py": GOOD, "requirements.txt": "no-such-package-here==1\n"}
        done = run(newest, tmp_path, files)
        assert done.returncode == script.DEPENDENCIES_FAILED
        assert "no-such-package-here" in done.stderr
        assert done.stderr.splitlines()[-1] == (
            "the packages of requirements.txt could not be installed"
        )

    def test_an_artifact_over_its_bound(self, newest: Interpreter, tmp_path: Path) -> None:
        done = run(newest, tmp_path, {"handler.py": GOOD, "data": "x" * 5000}, max_bytes=4000)
        assert done.returncode == script.ARTIFACT_TOO_LARGE
        assert "over the bound of 4000" in done.stderr


class TestEntry:
    """The check runs before anything of the app does."""

    @pytest.mark.parametrize(
        "code",
        [
            GOOD,
            "async def handler(p, c): ...\n",
            "class handler: ...\n",
            "handler = lambda p, c: p\n",
            "handler: object = print\n",
            "from pkg import handler\n",
            "from pkg import main as handler\n",
            "from pkg import *\n",
            "try:\n    from a import handler\nexcept ImportError:\n    from b import handler\n",
            "if True:\n    def handler(p, c): ...\n",
            "with open('x') as f:\n    def handler(p, c): ...\n",
            "(handler := print)\n",
            "a, handler = 1, print\n",
        ],
    )
    def test_any_top_level_binding_will_do(self, tmp_path: Path, code: str) -> None:
        script.check_entry(str(write(tmp_path, {"handler.py": code})))

    @pytest.mark.parametrize(
        "code",
        [
            "",
            "def main(p, c): ...\n",
            "def outer():\n    def handler(p, c): ...\n",
            "class A:\n    def handler(self, p, c): ...\n",
            "print(handler)\n",
            "import pkg.handler\n",
        ],
    )
    def test_nothing_else_will(self, tmp_path: Path, code: str) -> None:
        with pytest.raises(script.Failed, match="no top-level function named handler"):
            script.check_entry(str(write(tmp_path, {"handler.py": code})))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(script.Failed, match=r"there is no handler\.py at the root"):
            script.check_entry(str(tmp_path))

    @pytest.mark.parametrize("code", ["x = 1\0", "(" * 5000, "# coding: nonsense\n"])
    def test_nonsense(self, tmp_path: Path, code: str) -> None:
        with pytest.raises(script.Failed, match=r"^handler\.py"):
            script.check_entry(str(write(tmp_path, {"handler.py": code})))
