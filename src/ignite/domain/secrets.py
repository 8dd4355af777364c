"""Secret slots: named, typed credentials of an organisation (spec 13)."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ignite.domain.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SecretType(StrEnum):
    """What a slot holds, with the wire's words."""

    GIT = "git_secret"
    REGISTRY = "registry_secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSecret:
    """A login for HTTPS clones."""

    username: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySecret:
    """A login of an image registry; an empty address means Docker Hub."""

    username: str
    password: str = field(repr=False)
    server_address: str = ""


SecretValue = GitSecret | RegistrySecret


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSlot:
    """What may be shown of a slot."""

    name: str
    type: SecretType
    created_at: datetime
    updated_at: datetime


def type_of(value: SecretValue) -> SecretType:
    """Return the type that a value gives its slot."""
    return SecretType.GIT if isinstance(value, GitSecret) else SecretType.REGISTRY


def check_secret_name(name: str) -> None:
    """Refuse a name outside 1-64 letters, digits, `-` and `_`."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument("must be 1 to 64 letters, digits, '-' or '_'", field="name")
