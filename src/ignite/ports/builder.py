"""The port of builders: source code in, an artifact on the machine out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ignite.domain.builds import Build

LogSink = Callable[[str, str], Awaitable[None]]
"""Called with (stream, line) for every line, in order; awaiting it is the back-pressure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The digest of the artifact and the runtime version that was resolved ("3.11.7")."""

    artifact: str
    runtime_version: str


class Builder(Protocol):
    """Compiles code in a sandbox without secrets."""

    async def build(self, build: Build, log: LogSink) -> BuildResult:
        """Compile and keep the artifact.

        Raises PermanentError with a reason word when the code cannot be compiled, TemporaryError
        when the machine is at fault. Building the same code twice gives the first artifact.
        """
