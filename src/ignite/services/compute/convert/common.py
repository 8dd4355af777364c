"""Names, numbers and times that all conversions share."""

from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar

from ignite.domain.apps import AppRef, check_app_name
from ignite.domain.errors import InvalidArgument
from ignite.domain.identity import Organization

_Enum = TypeVar("_Enum", bound=IntEnum)


def app_ref(organization: Organization, name: str) -> AppRef:
    """Return which app of the caller's organisation a request names."""
    check_app_name(name, field="app_name")
    return AppRef(organization=organization.name, name=name)


def enum_of(kind: type[_Enum], number: int, field: str, *, unset: _Enum) -> _Enum:
    """Return the enum's value, `unset` for 0; refuse a number that it does not have."""
    if number == 0:
        return unset
    try:
        return kind(number)
    except ValueError:
        raise InvalidArgument(f"{number} is not a known value", field=field) from None


def to_ms(moment: datetime | None) -> int:
    """Return Unix milliseconds, 0 for None."""
    return 0 if moment is None else int(moment.timestamp() * 1000)


def number(value: IntEnum) -> Any:
    """Return an enum's number for the wire: the domain's are the same, which a test holds."""
    return int(value)
