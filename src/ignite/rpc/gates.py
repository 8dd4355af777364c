"""Lets the callers of a method in, or not."""

from typing import Any, Protocol, TypeAlias

from ignite.domain.identity import Principal
from ignite.rpc.handlers import Context

Caller: TypeAlias = Principal | None


class Gate(Protocol):
    """Stands before one method. `leave` is called once for each `enter` that returned."""

    async def enter(self, context: Context) -> Caller:
        """Return who calls, None where nobody is named; raises what refuses the call."""

    def check(self, caller: Caller, message: Any) -> None:
        """Raise what refuses a message of the caller."""

    def leave(self, caller: Caller) -> None:
        """Take note that the call is over."""


class Auth(Protocol):
    """Knows the gate of each method."""

    def gate(self, method: str) -> Gate:
        """Return the gate before `method` (`/package.Service/Method`)."""


class OpenGate:
    """Lets everyone in."""

    async def enter(self, context: Context) -> Caller:  # noqa: ARG002 - whoever it is
        """Return None: nobody is asked for a name."""
        return None

    def check(self, caller: Caller, message: Any) -> None:
        """Accept the message."""

    def leave(self, caller: Caller) -> None:
        """Do nothing."""


OPEN = OpenGate()
