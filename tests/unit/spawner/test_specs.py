"""What may be said to the spawner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.domain.errors import InvalidArgument
from ignite.spawner.specs import allowed_env, check_env, check_id


@pytest.mark.parametrize("value", ["a", "x-1_2", "hello-1a2b3c4d-01jd0000000000000000000000"])
def test_an_id(value: str) -> None:
    assert check_id(value, "replica_id") == value


@given(st.text())
def test_an_id_is_always_a_safe_name(value: str) -> None:
    try:
        check_id(value, "replica_id")
    except InvalidArgument:
        return
    assert value not in (".", "..")
    assert not set(value) & set("/\0.\n ")
    assert 0 < len(value) <= 64
    assert value[0] not in ".-_"


@pytest.mark.parametrize("name", ["", "A B", "A=B", "1A", "A\n", "Ä"])
def test_what_is_no_name_of_a_variable(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_env({name: "x"})


def test_more_than_fits_is_refused() -> None:
    check_env({"A": "x" * 500_000})
    with pytest.raises(InvalidArgument):
        check_env({"A": "x" * 600_000})


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES", "IGNITE_SOCKET", "HOME", "PATH", "PORT"]
)
def test_what_decides_how_programs_are_loaded_is_ours(name: str) -> None:
    assert allowed_env({name: "x", "MINE": "y"}) == {"MINE": "y"}
