"""Secret slots: named, typed credentials of an organisation (spec 13)."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ignite.domain.errors import InvalidArgument

MAX_USERNAME_CHARS = 256
MAX_CREDENTIAL_BYTES = 16 * 1024
MAX_ADDRESS_CHARS = 255 + len(":65535")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::(\d{{1,5}}))?")


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


def check_secret_value(value: SecretValue) -> None:
    """Refuse a credential that no server would take; the message never repeats it."""
    match value:
        case GitSecret():
            _check_username(value.username, "value.git_secret.username")
            _check_credential(value.token, "value.git_secret.token")
        case RegistrySecret():
            _check_username(value.username, "value.registry_secret.username")
            _check_credential(value.password, "value.registry_secret.password")
            _check_address(value.server_address, "value.registry_secret.server_address")


def _check_username(text: str, field: str) -> None:
    if not text:
        raise InvalidArgument("must not be empty", field=field)
    if len(text) > MAX_USERNAME_CHARS:
        raise InvalidArgument(f"must have at most {MAX_USERNAME_CHARS} characters", field=field)
    if _CONTROL.search(text) or ":" in text:
        raise InvalidArgument("must not have control characters or ':'", field=field)


def _check_credential(text: str, field: str) -> None:
    if not text:
        raise InvalidArgument("must not be empty", field=field)
    if len(text.encode()) > MAX_CREDENTIAL_BYTES:
        raise InvalidArgument(f"must have at most {MAX_CREDENTIAL_BYTES} bytes", field=field)
    if _CONTROL.search(text):
        raise InvalidArgument("must not have control characters or line ends", field=field)


def _check_address(text: str, field: str) -> None:
    if not text:
        return
    match = _ADDRESS.fullmatch(text) if len(text) <= MAX_ADDRESS_CHARS else None
    port = match and match[1]
    if not match or (port and not 0 < int(port) < 65_536):
        raise InvalidArgument(
            "must be a host or host:port, without scheme or path; empty means Docker Hub",
            field=field,
        )
