"""Versions: the mutable draft (0) and the immutable 1..N. Their states and legal moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from ignite.domain.apps import App, AppConfig
from ignite.domain.runtimes import Language as Language
from ignite.domain.runtimes import Runtime as Runtime


class VersionStatus(IntEnum):
    """With the wire's numbers."""

    UNSPECIFIED = 0
    COMPILING = 1
    DRAFT = 2
    ACTIVE = 3
    SUPERSEDED = 4
    FAILED = 5


MOVES: Mapping[VersionStatus, frozenset[VersionStatus]] = {
    VersionStatus.UNSPECIFIED: frozenset(),
    VersionStatus.DRAFT: frozenset(
        {VersionStatus.COMPILING, VersionStatus.ACTIVE, VersionStatus.FAILED}
    ),
    VersionStatus.COMPILING: frozenset(
        {VersionStatus.DRAFT, VersionStatus.ACTIVE, VersionStatus.FAILED}
    ),
    VersionStatus.ACTIVE: frozenset({VersionStatus.SUPERSEDED}),
    VersionStatus.SUPERSEDED: frozenset({VersionStatus.ACTIVE}),
    # A draft that failed to compile may be compiled again (version 0 only).
    VersionStatus.FAILED: frozenset({VersionStatus.COMPILING}),
}


class CodeKind(IntEnum):
    """Which way code came, with the wire's numbers."""

    UNSPECIFIED = 0
    SDK = 1
    UPLOAD_IMAGE = 2
    GIT_IMAGE = 3
    PREBUILT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Source code as saved: a blob and how to read it.

    `blob` is the SHA-256 of the bytes as sent, 64 hex digits; `is_archive` tells an archive from a
    single file. `hash` (keyed by organisation) identifies code, runtime and build arguments.
    """

    kind: CodeKind
    runtime: Runtime
    blob: str
    size_bytes: int
    is_archive: bool
    build_args: Mapping[str, str]
    hash: str

    @property
    def short_hash(self) -> str:
        """Return the form on the wire, 8 hex digits."""
        return self.hash[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of an app; `number` 0 is the draft.

    `artifact` is the digest of the compiled bundle, "" before the compile, and `runtime_version`
    what it was compiled for ("3.11.7"): it runs under that, whatever the machine's default becomes.
    `config` is the record of the app's config when the version was published.
    """

    app_id: int
    number: int
    status: VersionStatus
    code: Code
    artifact: str
    build_id: str
    deploy_id: str
    config: AppConfig
    error: str
    error_reason: str
    created_at: datetime
    compiled_at: datetime | None
    runtime_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownVersion:
    """What an app's record shows of a version."""

    code: Code
    build_id: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ShownApp:
    """An app and the version whose code it shows: the active one, else the draft, else none.

    Compared by identity: what is made of one is kept beside it.
    """

    app: App
    version: Version | ShownVersion | None
