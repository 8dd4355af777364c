"""Runtimes: the languages whose source code the platform compiles and runs itself."""

from dataclasses import dataclass
from enum import StrEnum


class Language(StrEnum):
    """A managed runtime."""

    PYTHON = "python"
    RUST = "rust"
    GO = "go"
    DENO = "deno"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A language, the version of it that was asked for ("" = the default) and its target."""

    language: Language
    version: str = ""
    target: str = ""
