"""Log files of children: appended as bytes come, rotated by size, bounded in number.

Writing never stops the child: on a full disk lines are dropped and counted, because a process whose
pipe nobody reads stands still. The files belong to the supervisor and links are not followed.
"""

import contextlib
import io
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

_MAX_LINE = 8 * 1024


class RotatingLog:
    """`x.log`, and the older `x.log.1` … `x.log.<keep>`."""

    def __init__(self, path: Path, *, rotate_bytes: int, keep: int) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._fd = -1
        self._size = 0
        self.dropped_bytes = 0

    def write(self, data: bytes) -> None:
        """Append `data`, rotating first when the file would grow beyond its bound."""
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(data) > self._rotate_bytes:
                self._rotate()
            view = memoryview(data)
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError as error:
            if not self.dropped_bytes:
                logger.error(
                    "child log cannot be written",
                    extra={"file": self._path.name, "why": error.strerror},
                )
            self.dropped_bytes += len(data)

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                older.replace(self._numbered(number))
        if not self._keep:
            self._path.unlink(missing_ok=True)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class LogStream(io.TextIOBase):
    """A rotating log as a text stream, for a logging handler."""

    def __init__(self, log: RotatingLog) -> None:
        self._log = log

    def write(self, text: str) -> int:
        """Append the text."""
        self._log.write(text.encode(errors="backslashreplace"))
        return len(text)


class LineSplitter:
    """Cuts a byte stream into lines of text; an overlong line comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [part for line in whole for part in _pieces(line)]
        while len(self._rest) >= _MAX_LINE:
            lines.append(_text(self._rest[:_MAX_LINE]))
            self._rest = self._rest[_MAX_LINE:]
        return lines

    def rest(self) -> list[str]:
        """Return what is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _pieces(line: bytes) -> list[str]:
    if len(line) <= _MAX_LINE:
        return [_text(line)]
    return [_text(line[at : at + _MAX_LINE]) for at in range(0, len(line), _MAX_LINE)]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
