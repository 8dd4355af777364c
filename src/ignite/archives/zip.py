"""ZIP, by its central directory and checked against the local headers.

What two readers could read differently is refused: local names other than the central ones, data
that overlaps, sizes that lie.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ignite.archives.members import CHUNK_BYTES, Member, MemberKind
from ignite.domain.archives import ArchiveLimits, check_count, refused, shown

_END: Final = struct.Struct("<4s4H2LH")
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")

_MAX_COMMENT = 65_535
_FULL16 = 0xFFFF
_FULL32 = 0xFFFF_FFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_TYPE_MASK, _TYPE_FOLDER, _TYPE_FILE, _TYPE_LINK = 0o170000, 0o040000, 0o100000, 0o120000
_EXTRA_ZIP64, _EXTRA_UNICODE_PATH = 0x0001, 0x7075


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """One record of the central directory."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    kind: MemberKind
    is_executable: bool
    offset: int


def read_zip(content: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    """Yield the members in the order of the central directory."""
    start, size, count = _directory(content)
    check_count(count, limits)
    records = list(_records(content, start, size, count))
    starts = _check_places(content, records, start)
    for record, at in zip(records, starts, strict=True):
        yield Member(
            name=record.name,
            kind=record.kind,
            is_executable=record.is_executable,
            size=record.size,
            chunks=_chunks(content, record, at),
        )


def _directory(content: bytes) -> tuple[int, int, int]:
    """Return start, size and number of records of the central directory."""
    low = max(0, len(content) - _END.size - _MAX_COMMENT)
    at = content.rfind(b"PK\x05\x06", low)
    if at < 0 or at + _END.size > len(content):
        raise refused("ArchiveCorrupt", "has no central directory; it is no ZIP or is cut off")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(content, at)
    if at + _END.size + comment != len(content):
        raise refused("ArchiveCorrupt", "has something else after its end")
    end = at
    if _FULL16 in (count, here) or _FULL32 in (size, start):
        end, count, size, start = _directory64(content, at, (count, size, start))
    elif disk or first or here != count:
        raise refused("ArchiveCorrupt", "is one of several volumes")
    if start + size != end:
        raise refused("ArchiveCorrupt", "has a central directory that is not where it should be")
    return start, size, count


def _directory64(content: bytes, at: int, small: tuple[int, int, int]) -> tuple[int, int, int, int]:
    place = at - _END64_LOCATOR.size
    if place < 0 or content[place : place + 4] != b"PK\x06\x07":
        raise refused("ArchiveCorrupt", "lacks its zip64 directory")
    _, _, end, disks = _END64_LOCATOR.unpack_from(content, place)
    if disks > 1 or end + _END64.size != place or content[end : end + 4] != b"PK\x06\x06":
        raise refused("ArchiveCorrupt", "has a malformed zip64 directory")
    _, _, _, _, disk, first, here, count, size, start = _END64.unpack_from(content, end)
    large = (count, size, start)
    marks = (_FULL16, _FULL32, _FULL32)
    differs = any(s not in (m, v) for s, m, v in zip(small, marks, large, strict=True))
    if disk or first or here != count or differs:
        raise refused("ArchiveCorrupt", "has two directories that contradict each other")
    return end, count, size, start


def _records(content: bytes, start: int, size: int, count: int) -> Iterator[_Record]:
    at, end = start, start + size
    for _ in range(count):
        if at + _CENTRAL.size > end or content[at : at + 4] != b"PK\x01\x02":
            raise refused("ArchiveCorrupt", "has a malformed central directory")
        fields = _CENTRAL.unpack_from(content, at)
        _, _, _, flags, method, _, _, crc, packed, unpacked = fields[:10]
        name_size, extra_size, comment_size, _, _, attributes, offset = fields[10:]
        at += _CENTRAL.size
        raw_name = content[at : at + name_size]
        extra = content[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        if at > end:
            raise refused("ArchiveCorrupt", "has a malformed central directory")
        name = _text(raw_name)
        unpacked, packed, offset = _wide(name, extra, (unpacked, packed, offset))
        mode = attributes >> 16
        yield _Record(
            raw_name=raw_name,
            name=name,
            flags=flags,
            method=method,
            crc=crc,
            packed=packed,
            size=unpacked,
            kind=_kind(name, mode),
            is_executable=bool(mode & 0o100),
            offset=offset,
        )
    if at != end:
        raise refused("ArchiveCorrupt", "has more in its central directory than it says")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        name = shown(raw.decode("utf-8", "backslashreplace"))
        raise refused("ArchiveBadName", f"entry {name} has a name that is not UTF-8") from None


def _wide(name: str, extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return sizes and offset, from the zip64 field where the small ones are full."""
    wide: bytes | None = None
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<HH", extra)
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        if len(data) != size:
            raise refused("ArchiveCorrupt", f"entry {shown(name)} has a malformed extra field")
        if tag == _EXTRA_ZIP64:
            if wide is not None:
                raise refused("ArchiveCorrupt", f"entry {shown(name)} has two zip64 fields")
            wide = data
        if tag == _EXTRA_UNICODE_PATH and data[5:] != name.encode():
            raise refused("ArchiveBadName", f"entry {shown(name)} goes by two names")
    found = []
    for field in fields:
        if field == _FULL32:
            if wide is None or len(wide) < 8:
                raise refused("ArchiveCorrupt", f"entry {shown(name)} lacks its zip64 field")
            field, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(field)
    return found[0], found[1], found[2]


def _kind(name: str, mode: int) -> MemberKind:
    kind = mode & _TYPE_MASK
    if kind == _TYPE_LINK:
        return MemberKind.LINK
    if kind not in (0, _TYPE_FILE, _TYPE_FOLDER):
        return MemberKind.SPECIAL
    return MemberKind.FOLDER if name.endswith("/") or kind == _TYPE_FOLDER else MemberKind.FILE


def _check_places(content: bytes, records: list[_Record], end: int) -> list[int]:
    """Return where each one's data starts; refuses overlaps and headers that differ."""
    starts = [_check_local(content, record) for record in records]
    last = 0
    for at, record in sorted(zip(starts, records, strict=True), key=lambda pair: pair[1].offset):
        if record.offset < last or at + record.packed > end:
            raise refused(
                "ArchiveCorrupt", f"entry {shown(record.name)} overlaps with something else"
            )
        last = at + record.packed
    return starts


def _check_local(content: bytes, record: _Record) -> int:
    name, at = shown(record.name), record.offset
    if record.flags & _ENCRYPTED:
        raise refused("ArchiveEncrypted", f"entry {name} is encrypted")
    if at + _LOCAL.size > len(content) or content[at : at + 4] != b"PK\x03\x04":
        raise refused("ArchiveCorrupt", f"entry {name} is not where the directory says")
    _, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(content, at)
    start = at + _LOCAL.size
    same = content[start : start + name_size] == record.raw_name
    if not same or method != record.method or flags & _ENCRYPTED:
        raise refused("ArchiveCorrupt", f"entry {name} has two headers that contradict each other")
    if record.method not in (_STORED, _DEFLATED):
        raise refused(
            "ArchiveCompressionUnsupported",
            f"entry {name} is compressed by method {record.method}; only deflate is read",
        )
    if record.kind is MemberKind.FOLDER and record.size:
        raise refused("ArchiveCorrupt", f"entry {name} is a folder with content")
    return start + int(name_size) + int(extra_size)


def _chunks(content: bytes, record: _Record, start: int) -> Iterator[bytes]:
    packed = memoryview(content)[start : start + record.packed]
    pieces = _inflated(packed, record) if record.method == _DEFLATED else _stored(packed)
    crc = size = 0
    for piece in pieces:
        size += len(piece)
        if size > record.size:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != record.size:
        raise refused("ArchiveCorrupt", f"entry {shown(record.name)} has another size than it says")
    if crc != record.crc:
        raise refused("ArchiveCorrupt", f"entry {shown(record.name)} has another CRC than it says")


def _stored(packed: memoryview) -> Iterator[bytes]:
    for at in range(0, len(packed), CHUNK_BYTES):
        yield bytes(packed[at : at + CHUNK_BYTES])


def _inflated(packed: memoryview, record: _Record) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    at = 0
    while not inflate.eof:
        source = inflate.unconsumed_tail or bytes(packed[at : at + CHUNK_BYTES])
        if not inflate.unconsumed_tail:
            at += len(source)
        try:
            piece = inflate.decompress(source, CHUNK_BYTES)
        except zlib.error as error:
            name = shown(record.name)
            raise refused("ArchiveCorrupt", f"entry {name} does not decompress ({error})") from None
        if piece:
            yield piece
        elif not source and not inflate.eof:
            raise refused("ArchiveCorrupt", f"entry {shown(record.name)} ends in the middle")
    if at < len(packed) or inflate.unused_data:
        raise refused("ArchiveCorrupt", f"entry {shown(record.name)} has more data than it needs")
