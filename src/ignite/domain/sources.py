"""Source code as a user sends it: what may be saved as a draft, and how equal code is known."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ignite.domain.app_checks import AppBounds, check_variables
from ignite.domain.archives import Listing
from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.domain.identity import OrganizationId
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.versions import Code, CodeKind

_PYTHON_VERSION = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?")
_GZIP = b"\x1f\x8b"

ENTRY_FILES: Mapping[Language, tuple[str, ...]] = {Language.PYTHON: ("handler.py",)}
"""One of these must be at the root; the first is the name of code that is a single file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Code for one of the managed runtimes: one file, or an archive."""

    runtime: Runtime
    content: bytes
    is_archive: bool
    build_args: Mapping[str, str]


def check_source(source: Source, bounds: AppBounds) -> None:
    """Refuse a source that cannot be compiled whatever is in its files."""
    check_runtime(source.runtime, "code.compile.runtime")
    if source.runtime.language not in ENTRY_FILES:
        raise Unimplemented(
            f"runtime {source.runtime.language} is not built yet", reason="RuntimeNotBuilt"
        )
    name = "code.compile.archive" if source.is_archive else "code.compile.source_code"
    if not source.content:
        raise InvalidArgument("must not be empty", field=name)
    if len(source.content) > bounds.archive_bytes:
        raise InvalidArgument(
            f"must be at most {bounds.archive_bytes} bytes, has {len(source.content)}", field=name
        )
    check_variables(
        source.build_args,
        "code.compile.build_args",
        entries=bounds.build_args,
        total_bytes=bounds.build_args_bytes,
    )


def check_runtime(runtime: Runtime, field: str) -> None:
    """Refuse a version that no release of the language can have."""
    if (
        runtime.language is Language.PYTHON
        and runtime.version
        and not _PYTHON_VERSION.fullmatch(runtime.version)
    ):
        raise InvalidArgument(
            f"must be like '3.11' (got {runtime.version[:20]!r})", field=f"{field}.python.version"
        )
    for text in (runtime.version, runtime.target):
        if len(text) > 64 or "\0" in text:
            raise InvalidArgument("must be at most 64 characters without NUL", field=field)


def check_entry(language: Language, listing: Listing) -> None:
    """Refuse an archive without the file its runtime starts from, in one top folder or none."""
    wanted = ENTRY_FILES[language]
    prefix = listing.prefix(wanted)
    if not any(prefix + name in listing.files for name in wanted):
        raise InvalidArgument(
            f"the archive has no {' or '.join(wanted)} at its root, which runtime {language} "
            "starts from",
            field="code",
            reason="EntryFileMissing",
        )


def code_of_source(source: Source, blob: str, organization: OrganizationId) -> Code:
    """Return the Code of a source whose content is kept as `blob`, the SHA-256 of it."""
    return Code(
        kind=CodeKind.SDK,
        runtime=source.runtime,
        blob=blob,
        size_bytes=len(source.content),
        is_archive=source.is_archive,
        build_args=dict(source.build_args),
        hash=_code_hash(source, blob, organization),
    )


def _code_hash(source: Source, blob: str, organization: OrganizationId) -> str:
    """Return 64 hex digits over all that decides the artifact.

    Keyed by the organisation: an equal hash of another tenant would tell that it has the same code.
    """
    runtime = source.runtime
    text = json.dumps(
        [
            int(CodeKind.SDK),
            runtime.language,
            runtime.version,
            runtime.target,
            sorted(source.build_args.items()),
            source.is_archive,
            blob,
        ]
    )
    return hmac.new(organization.encode(), text.encode(), hashlib.sha256).hexdigest()


def file_form(code: Code, content: bytes, app: str, number: int) -> tuple[str, str]:
    """Return (content type, file name) of a saved source."""
    if not code.is_archive:
        names = ENTRY_FILES.get(code.runtime.language, ("source",))
        return "text/x-python", names[0]
    label = f"{app}-v{number}"
    if content.startswith(_GZIP):
        return "application/gzip", f"{label}.tar.gz"
    return "application/zip", f"{label}.zip"
