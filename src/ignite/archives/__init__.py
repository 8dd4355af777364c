"""Reading archives of strangers: `inspect` checks all of one, `unpack` writes it into a folder.

The formats are read by parsers of our own: the standard library's follow links, allocate what a
header claims and read what overlaps. Blocking; run them in a thread.
"""

import os
from collections.abc import Iterator

from ignite.archives.members import Member, MemberKind
from ignite.archives.tar import read_tar_gz
from ignite.archives.zip import read_zip
from ignite.domain.archives import (
    ArchiveLimits,
    Entry,
    Listing,
    Names,
    check_archive_bytes,
    check_count,
    check_unpacked,
    refused,
    shown,
)

_ZIP_MAGIC = b"PK"
_GZIP_MAGIC = b"\x1f\x8b"

# What macOS adds beside the files: no one's source.
_DROPPED_TOP = "__MACOSX"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_archive(content: bytes) -> bool:
    """Tell by the magic bytes whether `content` is of a kind that `inspect` reads."""
    return content.startswith((_ZIP_MAGIC, _GZIP_MAGIC))


def inspect(content: bytes, limits: ArchiveLimits) -> Listing:
    """Return what is in the archive, having unpacked all of it to nowhere.

    Raises InvalidArgument with a reason word; the text names the entry and the bound.
    """
    entries = [entry for entry, _ in _entries(content, limits)]
    if not any(not entry.is_folder for entry in entries):
        raise refused("ArchiveEmpty", "holds no file")
    return Listing(entries=tuple(entries))


def unpack(content: bytes, folder: int, limits: ArchiveLimits, *, prefix: str = "") -> Listing:
    """Write the archive below the open directory `folder`, which should be empty.

    All of it is inspected before the first byte is written. `prefix` is a top folder to leave out
    (`Listing.prefix`); files get 0644 or 0755, whatever the archive says. Raises as `inspect` does,
    and OSError as the file system does.
    """
    listing = inspect(content, limits)
    for entry, chunks in _entries(content, limits):
        path = entry.path.removeprefix(prefix) if prefix else entry.path
        if path and not (entry.is_folder and f"{entry.path}/" == prefix):
            _write(folder, path, entry, chunks)
    return listing


def _entries(content: bytes, limits: ArchiveLimits) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Yield each entry with its bytes; the bytes are checked whether they are taken or not."""
    check_archive_bytes(len(content), limits)
    names = Names()
    unpacked = 0
    for count, member in enumerate(_members(content, limits), start=1):
        check_count(count, limits)
        entry = _checked(member, names)
        chunks = _counted(member, unpacked, len(content), limits)
        if entry is not None:
            yield entry, chunks
        for _ in chunks:
            pass
        unpacked += member.size


def _counted(member: Member, before: int, packed: int, limits: ArchiveLimits) -> Iterator[bytes]:
    for chunk in member.chunks:
        before += len(chunk)
        check_unpacked(before, packed, member.name, limits)
        yield chunk


def _members(content: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    if content.startswith(_ZIP_MAGIC):
        return read_zip(content, limits)
    if content.startswith(_GZIP_MAGIC):
        return read_tar_gz(content, limits)
    raise refused("ArchiveFormatUnknown", "is neither a ZIP nor a tar.gz")


def _checked(member: Member, names: Names) -> Entry | None:
    """Return the entry, None for one to leave out; refuses links and what is not a file."""
    match member.kind:
        case MemberKind.LINK:
            raise refused("ArchiveLink", f"entry {shown(member.name)} is a link")
        case MemberKind.SPECIAL:
            raise refused(
                "ArchiveSpecialFile", f"entry {shown(member.name)} is neither file nor folder"
            )
        case MemberKind.FILE | MemberKind.FOLDER:
            is_folder = member.kind is MemberKind.FOLDER
    path = names.add(member.name, is_folder=is_folder)
    if not path and not is_folder:
        raise refused("ArchiveBadName", f"entry {shown(member.name)} has no name")
    if not path or path.partition("/")[0] == _DROPPED_TOP:
        return None
    return Entry(
        path=path, is_folder=is_folder, is_executable=member.is_executable, size=member.size
    )


def _write(folder: int, path: str, entry: Entry, chunks: Iterator[bytes]) -> None:
    *parents, name = path.split("/")
    if entry.is_folder:
        os.close(_descend(folder, [*parents, name]))
        return
    above = _descend(folder, parents)
    try:
        mode = 0o755 if entry.is_executable else 0o644
        file = os.open(name, _NEW_FILE, mode, dir_fd=above)
    finally:
        os.close(above)
    with os.fdopen(file, "wb") as out:
        os.fchmod(out.fileno(), mode)
        for chunk in chunks:
            out.write(chunk)


def _descend(folder: int, names: list[str]) -> int:
    """Return a descriptor of the folder below, made where it is missing; never through a link."""
    current = os.dup(folder)
    for name in names:
        above = current
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            except FileExistsError:
                current = os.open(name, _FOLDER, dir_fd=above)
            else:
                current = os.open(name, _FOLDER, dir_fd=above)
                os.fchmod(current, 0o755)
        finally:
            os.close(above)
    return current
