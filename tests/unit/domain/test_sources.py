"""Sources: what may be saved, and how equal code is known."""

from dataclasses import replace

import pytest
from tests.unit.domain.test_app_checks import BOUNDS as ALL_BOUNDS

from ignite.domain.app_checks import AppBounds
from ignite.domain.archives import Entry, Listing
from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.domain.identity import OrganizationId
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.sources import (
    Source,
    check_entry,
    check_source,
    code_of_source,
    file_form,
)

BOUNDS: AppBounds = replace(ALL_BOUNDS, archive_bytes=10)
ACME = OrganizationId("01ACME")
PYTHON = Source(
    runtime=Runtime(language=Language.PYTHON, version="3.11"),
    content=b"code",
    is_archive=False,
    build_args={},
)


class TestCheckSource:
    @pytest.mark.parametrize("version", ["", "3.11", "3.9", "3.11.7"])
    def test_python_versions_are_taken(self, version: str) -> None:
        runtime = Runtime(language=Language.PYTHON, version=version)
        check_source(replace(PYTHON, runtime=runtime), BOUNDS)

    @pytest.mark.parametrize("version", ["2.7", "3", "3.11-dev", "3.11\n", "../3.11", "3.111"])
    def test_other_words_are_no_python_version(self, version: str) -> None:
        runtime = Runtime(language=Language.PYTHON, version=version)
        with pytest.raises(InvalidArgument, match=r"code\.compile\.runtime\.python\.version"):
            check_source(replace(PYTHON, runtime=runtime), BOUNDS)

    @pytest.mark.parametrize("language", [Language.RUST, Language.GO, Language.DENO])
    def test_runtime_that_is_not_built_says_so(self, language: Language) -> None:
        with pytest.raises(Unimplemented, match=f"runtime {language} is not built yet"):
            check_source(replace(PYTHON, runtime=Runtime(language=language)), BOUNDS)

    @pytest.mark.parametrize(
        ("source", "text"),
        [
            (replace(PYTHON, content=b""), "code.compile.source_code: must not be empty"),
            (
                replace(PYTHON, content=b"", is_archive=True),
                "code.compile.archive: must not be empty",
            ),
            (
                replace(PYTHON, content=b"x" * 11),
                "code.compile.source_code: must be at most 10 bytes, has 11",
            ),
            (replace(PYTHON, build_args={"a b": ""}), "code.compile.build_args: names must be"),
            (replace(PYTHON, build_args={"A": "x" * 20}), "code.compile.build_args: names and"),
            (
                replace(PYTHON, build_args={"A": "", "B": "", "C": ""}),
                "code.compile.build_args: must be at most 2 entries",
            ),
        ],
    )
    def test_source_out_of_bounds_is_refused_by_field(self, source: Source, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            check_source(source, BOUNDS)
        assert caught.value.message.startswith(text)


class TestCheckEntry:
    @pytest.mark.parametrize(
        "paths",
        [["handler.py"], ["handler.py", "x/y.py"], ["app/handler.py"], ["app/handler.py", "app/x"]],
    )
    def test_entry_at_the_root_or_in_one_top_folder_is_found(self, paths: list[str]) -> None:
        check_entry(Language.PYTHON, listing(paths))

    @pytest.mark.parametrize(
        "paths",
        [["main.py"], ["a/b/handler.py"], ["a/handler.py", "b/x.py"], ["x", "a/handler.py"]],
    )
    def test_missing_entry_is_refused_by_name(self, paths: list[str]) -> None:
        with pytest.raises(InvalidArgument, match=r"handler\.py") as caught:
            check_entry(Language.PYTHON, listing(paths))
        assert (caught.value.field, caught.value.reason) == ("code", "EntryFileMissing")

    def test_folder_of_that_name_is_no_entry(self) -> None:
        folder = Entry(path="handler.py", is_folder=True, is_executable=False, size=0)
        file = Entry(path="handler.py/x", is_folder=False, is_executable=False, size=1)
        with pytest.raises(InvalidArgument):
            check_entry(Language.PYTHON, Listing(entries=(folder, file)))


class TestCodeHash:
    def test_equal_sources_have_equal_hashes(self) -> None:
        first = code_of_source(replace(PYTHON, build_args={"A": "1", "B": "2"}), "ab", ACME)
        second = code_of_source(replace(PYTHON, build_args={"B": "2", "A": "1"}), "ab", ACME)
        assert first == second
        assert len(first.hash) == 64
        assert first.short_hash == first.hash[:8]

    @pytest.mark.parametrize(
        "other",
        [
            replace(PYTHON, runtime=Runtime(language=Language.PYTHON, version="3.12")),
            replace(PYTHON, runtime=Runtime(language=Language.PYTHON, version="3.11", target="x")),
            replace(PYTHON, is_archive=True),
            replace(PYTHON, build_args={"A": "1"}),
        ],
    )
    def test_all_that_decides_the_artifact_is_in_the_hash(self, other: Source) -> None:
        assert code_of_source(other, "ab", ACME).hash != code_of_source(PYTHON, "ab", ACME).hash

    def test_content_and_tenant_are_in_the_hash(self) -> None:
        base = code_of_source(PYTHON, "ab", ACME).hash
        assert code_of_source(PYTHON, "ac", ACME).hash != base
        assert code_of_source(PYTHON, "ab", OrganizationId("01RIVAL")).hash != base

    def test_arguments_cannot_be_written_so_that_two_sources_look_alike(self) -> None:
        first = code_of_source(replace(PYTHON, build_args={"A": '1","B'}), "ab", ACME)
        second = code_of_source(replace(PYTHON, build_args={"A": "1", "B": ""}), "ab", ACME)
        assert first.hash != second.hash


@pytest.mark.parametrize(
    ("is_archive", "content", "form"),
    [
        (False, b"PK\x03\x04 = 1", ("text/x-python", "handler.py")),
        (True, b"PK\x03\x04", ("application/zip", "web-v3.zip")),
        (True, b"\x1f\x8b\x08", ("application/gzip", "web-v3.tar.gz")),
    ],
)
def test_form_of_saved_code(is_archive: bool, content: bytes, form: tuple[str, str]) -> None:
    code = code_of_source(replace(PYTHON, is_archive=is_archive), "ab", ACME)
    assert file_form(code, content, "web", 3) == form


def listing(paths: list[str]) -> Listing:
    return Listing(
        entries=tuple(
            Entry(path=path, is_folder=False, is_executable=False, size=1) for path in paths
        )
    )
