"""Secret slots: what a value may be."""

import pytest

from ignite.domain.errors import InvalidArgument
from ignite.domain.secrets import (
    MAX_CREDENTIAL_BYTES,
    MAX_USERNAME_CHARS,
    GitSecret,
    RegistrySecret,
    check_secret_value,
)


def test_bounds_are_inclusive() -> None:
    check_secret_value(
        GitSecret(username="u" * MAX_USERNAME_CHARS, token="t" * MAX_CREDENTIAL_BYTES)
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (GitSecret(username="u" * 257, token="t"), "value.git_secret.username"),
        (GitSecret(username="u", token="ü" * 8193), "value.git_secret.token"),
        (GitSecret(username="u\0", token="t"), "value.git_secret.username"),
        (RegistrySecret(username="", password="p"), "value.registry_secret.username"),
        (RegistrySecret(username="u", password="\x7f"), "value.registry_secret.password"),
        (
            RegistrySecret(username="u", password="p", server_address="a." * 200),
            "value.registry_secret.server_address",
        ),
    ],
)
def test_the_field_is_named_and_the_value_is_not_repeated(
    value: GitSecret | RegistrySecret, field: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_secret_value(value)
    assert raised.value.field == field
    assert raised.value.message.startswith(f"{field}: ")
    assert len(raised.value.message) < 150


def test_values_are_not_shown_by_repr() -> None:
    assert "canary" not in repr(GitSecret(username="u", token="canary"))
    assert "canary" not in repr(RegistrySecret(username="u", password="canary"))
