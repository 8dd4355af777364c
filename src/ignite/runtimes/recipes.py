"""What a builder needs to know of a language: one Recipe a managed runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """One toolchain of the machine: "3.11" and "3.11.7"."""

    version: str
    full_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a compile ended with an exit code: the word to record."""

    reason: str


class Recipe(Protocol):
    """Turns source code into an artifact. Pure: says what to run, runs nothing."""

    @property
    def entry_files(self) -> tuple[str, ...]:
        """Return the files that code may start from; a single file gets the first name."""

    @property
    def reserved_names(self) -> frozenset[str]:
        """Return names at the root that are the platform's."""

    @property
    def failures(self) -> Mapping[int, Failure]:
        """Return what exit codes of the command mean."""

    def resolve(self, version: str, available: Sequence[Toolchain]) -> Toolchain:
        """Choose the toolchain for what was asked for; raises PermanentError."""

    def key(self, code_hash: str, toolchain: Toolchain) -> str:
        """Return the artifact's digest (64 hex digits): equal for whatever compiles to the same."""

    def command(self, artifact_bytes: int) -> tuple[str, ...]:
        """Return program and arguments as they are inside the build sandbox."""

    def env(self, index_url: str) -> Mapping[str, str]:
        """Return variables for the command; `index_url` may be "" and may hold a password."""
