"""The recipe of Python apps: which interpreter, which command, which artifact.

The artifact is named after what goes in and not after what comes out: only so can it be known
before a compile that there is nothing to compile. Packages without a version in requirements.txt
are therefore those of the first compile, until the code changes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from ignite.domain.errors import PermanentError
from ignite.runtimes.python import compile as script
from ignite.runtimes.recipes import Failure, Toolchain

PREFERRED_VERSION: Final = "3.11"

# Raise it when the same code has to compile to something else.
_FORM = 1


class PythonRecipe:
    """`runtimes.recipes.Recipe` for handler.py and requirements.txt."""

    entry_files: Final = (script.ENTRY,)
    reserved_names: Final = frozenset({script.DEPENDENCIES})
    failures: Final[Mapping[int, Failure]] = {
        script.SOURCE_INVALID: Failure(reason="SourceInvalid"),
        script.DEPENDENCIES_FAILED: Failure(reason="DependencyInstallFailed"),
        script.ARTIFACT_TOO_LARGE: Failure(reason="ArtifactTooLarge"),
    }

    def resolve(self, version: str, available: Sequence[Toolchain]) -> Toolchain:
        """Return the interpreter for `version`: "3.11", a full "3.11.7", or "" for the default.

        The default is 3.11 where the machine has it, else the newest.
        """
        wanted = version.split(".")
        for toolchain in available:
            if version and toolchain.full_version.split(".")[: len(wanted)] == wanted:
                return toolchain
        if not version and available:
            preferred = [one for one in available if one.version == PREFERRED_VERSION]
            return (preferred or sorted(available, key=_age, reverse=True))[0]
        known = ", ".join(one.full_version for one in available) or "none"
        raise PermanentError(
            f"this machine has no Python {version or 'at all'}; it has {known}",
            reason="RuntimeVersionNotAvailable",
        )

    def key(self, code_hash: str, toolchain: Toolchain) -> str:
        """Return the digest; bytecode and wheels are the same for all releases of a minor."""
        text = f"python {_FORM} {toolchain.version} {code_hash}"
        return hashlib.sha256(text.encode()).hexdigest()

    def command(self, artifact_bytes: int) -> tuple[str, ...]:
        """Return the run of compile.py."""
        return (
            *("{python}", "-I", "-B", "/ignite/compile.py"),
            *("--source", "/src", "--output", "/out", "--cache", "/cache", "--uv", "/ignite/uv"),
            *("--max-bytes", str(artifact_bytes)),
        )

    def env(self, index_url: str) -> Mapping[str, str]:
        """Return the index, where one is set; uv keeps passwords out of what it prints."""
        return {"UV_DEFAULT_INDEX": index_url} if index_url else {}


def _age(toolchain: Toolchain) -> tuple[int, ...]:
    return tuple(int(part) for part in toolchain.version.split("."))
