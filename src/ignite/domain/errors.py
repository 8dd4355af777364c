"""What can go wrong, one class per status of the contract (spec 1.8).

`message` is written for the caller: it names the field and the bound, never a path, a secret or a
trace. `reason` is a short CamelCase word that programs can test. `details` are further plain facts.
"""

from collections.abc import Mapping
from datetime import timedelta


class IgniteError(Exception):
    """Base of every error that may reach a caller as it is."""

    default_reason = "Internal"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.details = dict(details or {})


class InvalidArgument(IgniteError):
    """The request is wrong whatever the state. `field` names the culprit."""

    default_reason = "InvalidArgument"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        if field and field not in message:
            message = f"{field}: {message}"
        super().__init__(message, reason=reason, details={**(details or {}), **_field(field)})
        self.field = field


def _field(field: str) -> dict[str, str]:
    return {"field": field} if field else {}


class Unauthenticated(IgniteError):
    """No identity, or one that cannot be believed."""

    default_reason = "Unauthenticated"


class PermissionDenied(IgniteError):
    """The identity is good and may not do this."""

    default_reason = "PermissionDenied"


class NotFound(IgniteError):
    """The named thing does not exist for this caller."""

    default_reason = "NotFound"


class AlreadyExists(IgniteError):
    """The name is taken."""

    default_reason = "AlreadyExists"


class ResourceExhausted(IgniteError):
    """A quota or a bound is reached."""

    default_reason = "ResourceExhausted"


class FailedPrecondition(IgniteError):
    """The request is right but not in this state (publish without a draft, and the like)."""

    default_reason = "FailedPrecondition"


class DeadlineExceeded(IgniteError):
    """The time given was not enough."""

    default_reason = "DeadlineExceeded"


class Unavailable(IgniteError):
    """A part that is needed does not answer now; trying again may help."""

    default_reason = "Unavailable"


class Unimplemented(IgniteError):
    """The contract names it, this build does not have it."""

    default_reason = "Unimplemented"


class Internal(IgniteError):
    """Our own failure, with a text that is safe to show."""


class AppNotFound(NotFound):
    """No such app in the caller's organisation."""

    default_reason = "AppNotFound"


class VersionNotFound(NotFound):
    """The app has no such version."""

    default_reason = "VersionNotFound"


class NoDraft(FailedPrecondition):
    """The app has no saved draft."""

    default_reason = "NoDraft"


class SecretNotFound(NotFound):
    """No such secret slot in the caller's organisation."""

    default_reason = "SecretNotFound"


class TemporaryError(Exception):
    """For controllers: the same work may succeed after `after`."""

    def __init__(self, message: str, *, after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.after = after


class PermanentError(Exception):
    """For controllers: the same work will fail the same way; `reason` is the word to record."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
