"""Code on disk as it is sent."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from ignite.cli import archive
from ignite.cli.failures import Failure


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "lib").mkdir(parents=True)
    (folder / "handler.py").write_text("x")
    (folder / "lib" / "a.py").write_text("y")
    return folder


class TestFolder:
    def test_same_code_gives_the_same_bytes_whenever_and_in_whatever_order(
        self, code: Path, tmp_path: Path
    ) -> None:
        first = archive.read(code).data
        other = tmp_path / "other"
        (other / "lib").mkdir(parents=True)
        (other / "lib" / "a.py").write_text("y")
        (other / "handler.py").write_text("x")
        os.utime(other / "handler.py", (1, 1))
        (other / "handler.py").chmod(0o600)
        assert archive.read(other).data == first

    def test_executable_bit_counts(self, code: Path) -> None:
        before = archive.read(code).data
        (code / "handler.py").chmod(0o755)
        assert archive.read(code).data != before

    @pytest.mark.parametrize(
        "name", [".git", "node_modules", "__pycache__", "target", ".venv", ".ignite"]
    )
    def test_folders_that_are_no_code_stay_here(self, code: Path, name: str) -> None:
        (code / "lib" / name).mkdir()
        (code / "lib" / name / "big").write_text("z")
        assert names(archive.read(code).data) == ["handler.py", "lib/a.py"]

    def test_link_inside_is_sent_as_its_content(self, code: Path) -> None:
        (code / "again.py").symlink_to("handler.py")
        with tarfile.open(fileobj=io.BytesIO(archive.read(code).data)) as tar:
            assert tar.getmember("again.py").isreg()

    @pytest.mark.parametrize("target", ["/etc/hostname", "../secret", "lib", "gone"])
    def test_link_that_leads_out_to_a_folder_or_nowhere_is_refused(
        self, code: Path, target: str
    ) -> None:
        (code.parent / "secret").write_text("s")
        (code / "link").symlink_to(target)
        with pytest.raises(Failure, match=r"link|regular"):
            archive.read(code)

    def test_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Failure, match="no files"):
            archive.read(tmp_path)


class TestRuntime:
    @pytest.mark.parametrize(
        ("name", "runtime"),
        [
            ("handler.py", "python"),
            ("Cargo.toml", "rust"),
            ("go.mod", "go"),
            ("main.ts", "deno"),
            ("main.js", "deno"),
            ("deno.json", "deno"),
            ("Dockerfile", "image"),
            ("README", ""),
        ],
    )
    def test_of_a_folder(self, tmp_path: Path, name: str, runtime: str) -> None:
        (tmp_path / name).write_text("x")
        assert archive.read(tmp_path).runtime == runtime

    def test_of_a_zip_below_its_one_top_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "code.zip"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("app/go.mod", "module x")
            packed.writestr("app/main.go", "package main")
        code = archive.read(path)
        assert (code.runtime, code.is_archive, code.data) == ("go", True, path.read_bytes())

    def test_of_a_source_file(self, tmp_path: Path) -> None:
        (tmp_path / "anything.ts").write_text("x")
        code = archive.read(tmp_path / "anything.ts")
        assert (code.runtime, code.is_archive) == ("deno", False)

    @pytest.mark.parametrize("data", [b"PK\x03\x04broken", b"\x1f\x8bbroken", b"text"])
    def test_broken_archives_are_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "code.bin").write_bytes(data)
        with pytest.raises(Failure):
            archive.read(tmp_path / "code.bin")
