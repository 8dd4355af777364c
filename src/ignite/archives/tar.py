"""tar.gz, as a stream: nothing is kept but the block at hand.

Reads ustar, GNU long names and pax paths and sizes. What else a header may carry is either without
meaning here (owners, times) or refused (links, devices, sparse maps, further volumes).
"""

import zlib
from collections.abc import Iterator
from typing import Final

from ignite.archives.members import CHUNK_BYTES, Member, MemberKind
from ignite.domain.archives import ArchiveLimits, check_count, check_unpacked, refused, shown

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_MAX_EXTENSION_BYTES = 64 * 1024
_PLAIN_BYTES = 1024
_GZIP = 16 + zlib.MAX_WBITS

_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"7": MemberKind.FILE,
    b"5": MemberKind.FOLDER,
    b"1": MemberKind.LINK,
    b"2": MemberKind.LINK,
}


def read_tar_gz(content: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    """Yield the members; each one's chunks must be read before the next is asked for."""
    return _Tar(_Gunzip(content, limits), limits).members()


class _Gunzip:
    """The unpacked bytes, one bounded piece after another; checks every member's CRC and length."""

    def __init__(self, content: bytes, limits: ArchiveLimits) -> None:
        self._view = memoryview(content)
        self._packed = len(content)
        self._at = 0
        self._limits = limits
        self._inflate = zlib.decompressobj(_GZIP)
        self._ready = b""
        self._total = 0
        self._streams = 1
        self.name = ""
        self.headers = 0

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer only at the end."""
        parts = []
        while size:
            if not self._ready and not self._fill():
                break
            part, self._ready = self._ready[:size], self._ready[size:]
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _fill(self) -> bool:
        while not self._ready:
            if self._inflate.eof and not self._next_member():
                return False
            source = self._inflate.unconsumed_tail or self._take()
            try:
                self._ready = self._inflate.decompress(source, CHUNK_BYTES)
            except zlib.error as error:
                raise refused("ArchiveCorrupt", f"does not decompress ({error})") from None
            if not (source or self._ready or self._inflate.eof):
                raise refused("ArchiveCorrupt", "ends in the middle")
            self._total += len(self._ready)
            # What lies between and behind the files counts as well, but for plain headers.
            rest = self._total - _PLAIN_BYTES * (self.headers + _PLAIN_BYTES)
            check_unpacked(rest, self._packed, self.name, self._limits)
        return True

    def _take(self) -> bytes:
        part = bytes(self._view[self._at : self._at + CHUNK_BYTES])
        self._at += len(part)
        return part

    def _next_member(self) -> bool:
        """Go on with the next gzip member, if one follows; padding with zeros is allowed."""
        self._at -= len(self._inflate.unused_data)
        rest = bytes(self._view[self._at : self._at + 2])
        if rest == b"\x1f\x8b":
            self._inflate = zlib.decompressobj(_GZIP)
            self._streams += 1
            check_count(self._streams, self._limits)
            return True
        if bytes(self._view[self._at :]).strip(b"\0"):
            raise refused("ArchiveCorrupt", "has something else after its end")
        self._at = self._packed
        return False


class _Tar:
    def __init__(self, stream: _Gunzip, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._left = 0

    def members(self) -> Iterator[Member]:
        path: str | None = None
        size: int | None = None
        while (header := self._header()) is not None:
            kind = header[156:157]
            length = _number(header[124:136])
            if kind in b"xg":
                values = _pax(self._extension(length))
                if kind == b"x":
                    path, size = values.get("path", path), _pax_size(values, size)
                elif not values.keys().isdisjoint({"path", "size"}):
                    raise refused("ArchiveCorrupt", "names entries in a global header")
            elif kind in b"LK":
                data = self._extension(length)
                path = _text(data.rstrip(b"\0")) if kind == b"L" else path
            else:
                yield self._member(header, path, length if size is None else size)
                if self._left:
                    raise refused("ArchiveCorrupt", "was not read in order")
                path = size = None
        if path is not None or size is not None:
            raise refused("ArchiveCorrupt", "ends after an extension header")
        self._finish()

    def _member(self, header: bytes, path: str | None, size: int) -> Member:
        name = _name(header) if path is None else path
        self._stream.name = name
        kind = _KINDS.get(header[156:157], MemberKind.SPECIAL)
        if kind is MemberKind.FILE and name.endswith("/"):
            kind = MemberKind.FOLDER  # how tar of before 1988 wrote folders
        if kind is not MemberKind.FILE and size:
            if kind is MemberKind.FOLDER:
                raise refused("ArchiveCorrupt", f"entry {shown(name)} is a folder with content")
            size = 0
        if size > self._limits.unpacked_bytes:
            check_unpacked(size, 0, name, self._limits)
        self._left = size
        executable = bool(_number(header[100:108]) & 0o100)
        return Member(
            name=name, kind=kind, is_executable=executable, size=size, chunks=self._content(name)
        )

    def _content(self, name: str) -> Iterator[bytes]:
        padding = -self._left % _BLOCK
        while self._left:
            chunk = self._stream.read(min(self._left, CHUNK_BYTES))
            if not chunk:
                raise refused("ArchiveCorrupt", f"ends within entry {shown(name)}")
            self._left -= len(chunk)
            yield chunk
        if len(self._stream.read(padding)) != padding:
            raise refused("ArchiveCorrupt", f"ends within entry {shown(name)}")

    def _header(self) -> bytes | None:
        """Return the next header, None at the end mark."""
        block = self._stream.read(_BLOCK)
        if block == _ZEROS:
            return None
        if len(block) < _BLOCK:
            raise refused("ArchiveCorrupt", "ends without the mark of its end")
        total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if _number(block[148:156]) != total:
            raise refused("ArchiveCorrupt", "has a header with a wrong checksum, or is no tar")
        # An entry has three headers at most, each an entry's worth of work.
        self._stream.headers += 1
        check_count((self._stream.headers + 2) // 3, self._limits)
        return block

    def _extension(self, length: int) -> bytes:
        if length > _MAX_EXTENSION_BYTES:
            raise refused("ArchiveNameTooLong", "has an extension header over its bound")
        data = self._stream.read(length + -length % _BLOCK)
        if len(data) < length:
            raise refused("ArchiveCorrupt", "ends within an extension header")
        return data[:length]

    def _finish(self) -> None:
        """Read to the very end: the CRC stands there, and nothing may hide behind the end mark."""
        while rest := self._stream.read(CHUNK_BYTES):
            if rest.count(0) != len(rest):
                raise refused("ArchiveCorrupt", "has entries behind the mark of its end")


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    # Only POSIX headers have a prefix; GNU's keep times there.
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        name = shown(raw.decode("utf-8", "backslashreplace"))
        raise refused("ArchiveBadName", f"entry {name} has a name that is not UTF-8") from None


def _number(field: bytes) -> int:
    """Return an octal number. Base 256 is for what is far over every bound of ours."""
    text = field.strip(b" \0")
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise refused("ArchiveCorrupt", "has a header with a number that is none")
    return int(text, 8)


def _pax(data: bytes) -> dict[str, str]:
    """Return the records `LENGTH KEY=VALUE\\n`; refuses what makes a file sparse."""
    values: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or len(length) > 5:
            raise refused("ArchiveCorrupt", "has a malformed pax header")
        record, data = data[: int(length)], data[int(length) :]
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or not record.endswith(b"\n") or len(record) != int(length):
            raise refused("ArchiveCorrupt", "has a malformed pax header")
        if key.startswith(b"GNU.sparse."):
            raise refused("ArchiveSpecialFile", "has a sparse file")
        if key in (b"path", b"size"):
            values[key.decode()] = _text(value)
    return values


def _pax_size(values: dict[str, str], size: int | None) -> int | None:
    text = values.get("size")
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise refused("ArchiveCorrupt", "has a malformed pax header")
    return int(text)
