"""Blobs as files named by their SHA-256, one folder an organisation.

A blob is written beside its place, synced, then renamed, and the folder is synced: it is there
whole or not at all, also over a power cut. Bytes are checked against the name when they are read,
so a damaged disk cannot pass for code.
"""

import asyncio
import errno
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ignite.domain.errors import Internal, NotFound, Unavailable
from ignite.domain.identity import OrganizationName
from ignite.privileges import sync_folder

logger = logging.getLogger(__name__)

_CHUNK = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DRAFT = ".draft-"
_STALE_SECS = 24 * 3600


class FileBlobStore:
    """Implements ports.blobs.BlobStore below `root`. Any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, organization: OrganizationName, content: bytes) -> str:
        """See ports.blobs.BlobStore."""
        folder = self._folder(organization)
        digest = hashlib.sha256(content).hexdigest()
        if not await asyncio.to_thread(_is_there, _place(folder, digest), len(content)):
            await asyncio.to_thread(_store, folder, (content,))
        return digest

    async def put_file(self, organization: OrganizationName, path: Path) -> str:
        """See ports.blobs.BlobStore."""
        folder = self._folder(organization)

        def copy() -> str:
            with path.open("rb") as source:
                return _store(folder, _chunks(source))

        return await asyncio.to_thread(copy)

    async def get(self, organization: OrganizationName, digest: str) -> bytes:
        """See ports.blobs.BlobStore. Raises Internal when the bytes are damaged."""
        content = await asyncio.to_thread(_read, self._find(organization, digest))
        _check(digest, hashlib.sha256(content).hexdigest())
        return content

    async def stream(self, organization: OrganizationName, digest: str) -> AsyncIterator[bytes]:
        """See ports.blobs.BlobStore. Raises Internal at the end when the bytes are damaged."""
        source = await asyncio.to_thread(_open, self._find(organization, digest))
        try:
            found = hashlib.sha256()
            while chunk := await asyncio.to_thread(source.read, _CHUNK):
                found.update(chunk)
                yield chunk
            _check(digest, found.hexdigest())
        finally:
            source.close()

    async def sweep(self) -> int:
        """Remove what writers left that died a day ago or earlier; return how many files."""
        return await asyncio.to_thread(_sweep, self._root)

    def _folder(self, organization: OrganizationName) -> Path:
        if not _LABEL.fullmatch(organization):
            raise NotFound("no such organization")
        return self._root / organization

    def _find(self, organization: OrganizationName, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFound("no such blob")
        return _place(self._folder(organization), digest)


def _place(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / digest[2:]


def _is_there(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except FileNotFoundError:
        return False


def _store(folder: Path, chunks: Iterable[bytes]) -> str:
    """Write a blob durably; return its digest."""
    with _disk_errors():
        _make_folder(folder)
        draft = folder / f"{_DRAFT}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            digest = hashlib.sha256()
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            place = _place(folder, digest.hexdigest())
            _make_folder(place.parent)
            draft.replace(place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(place.parent)
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, each durable in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def _read(path: Path) -> bytes:
    with _open(path) as file:
        return file.read()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound("no such blob") from None


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _check(wanted: str, found: str) -> None:
    if wanted != found:
        logger.error("a blob is damaged", extra={"digest": wanted})
        raise Internal("stored bytes are damaged", reason="BlobDamaged")


def _sweep(root: Path) -> int:
    before = time.time() - _STALE_SECS
    removed = 0
    for draft in root.glob(f"*/{_DRAFT}*"):
        if draft.stat().st_mtime < before:
            draft.unlink(missing_ok=True)
            removed += 1
    return removed


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("the storage is full", reason="StorageFull") from error
        raise
