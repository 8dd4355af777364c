"""Which interpreter an app gets, and when two compiles are the same."""

import pytest

from ignite.domain.errors import PermanentError
from ignite.runtimes.python.recipe import PythonRecipe
from ignite.runtimes.recipes import Toolchain

RECIPE = PythonRecipe()


def toolchains(*versions: str) -> list[Toolchain]:
    return [
        Toolchain(version=version.rpartition(".")[0], full_version=version) for version in versions
    ]


class TestResolve:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [("3.11", "3.11.7"), ("3.11.7", "3.11.7"), ("3.9", "3.9.18"), ("", "3.11.7")],
    )
    def test_finds_what_was_asked_for(self, wanted: str, found: str) -> None:
        available = toolchains("3.13.0", "3.11.7", "3.9.18")
        assert RECIPE.resolve(wanted, available).full_version == found

    def test_the_default_is_the_newest_without_the_preferred_one(self) -> None:
        assert RECIPE.resolve("", toolchains("3.9.18", "3.13.0", "3.10.1")).version == "3.13"

    @pytest.mark.parametrize("wanted", ["3.1", "3.14", "3.11.8", "2.7", "3.11.7.1"])
    def test_an_unknown_one_is_refused_with_what_there_is(self, wanted: str) -> None:
        with pytest.raises(PermanentError, match=r"has 3\.13\.0, 3\.11\.7") as refusal:
            RECIPE.resolve(wanted, toolchains("3.13.0", "3.11.7"))
        assert refusal.value.reason == "RuntimeVersionNotAvailable"

    def test_a_machine_without_python_says_so(self) -> None:
        with pytest.raises(PermanentError, match="no Python at all; it has none"):
            RECIPE.resolve("", [])


class TestKey:
    def test_depends_on_code_and_minor_version_alone(self) -> None:
        one, patch, other = toolchains("3.11.7", "3.11.9", "3.12.1")
        assert RECIPE.key("code", one) == RECIPE.key("code", patch)
        assert RECIPE.key("code", one) != RECIPE.key("code", other)
        assert RECIPE.key("code", one) != RECIPE.key("more", one)
        assert len(RECIPE.key("code", one)) == 64


def test_the_index_travels_in_the_environment_not_on_the_command_line() -> None:
    assert RECIPE.env("") == {}
    assert RECIPE.env("https://u:p@index/simple") == {
        "UV_DEFAULT_INDEX": "https://u:p@index/simple"
    }
    assert "index" not in " ".join(RECIPE.command(1000))
