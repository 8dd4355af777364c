"""Blobs as files named by their SHA-256, one folder an organisation.

A blob is written beside its place, synced, then renamed, and the folder is synced: it is there
whole or not at all, also over a power cut. Bytes are checked against the name when they are read,
so a damaged disk cannot pass for code.

A blob that is put once more gets a new time, under the lock that its removal takes (`blobs.shelf`):
it is there afterwards, whatever was found about it before.
"""

import asyncio
import errno
import hashlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ignite.domain.errors import Internal, NotFound, Unavailable
from ignite.domain.identity import OrganizationName
from ignite.locks import FolderLock, stamp
from ignite.privileges import sync_folder

logger = logging.getLogger(__name__)

_CHUNK = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DRAFT = ".draft-"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileBlobStore:
    """Implements ports.blobs.BlobStore below `root`. Any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FolderLock(root)

    async def put(self, organization: OrganizationName, content: bytes) -> str:
        """See ports.blobs.BlobStore."""
        folder = self._folder(organization)
        digest = hashlib.sha256(content).hexdigest()
        if not await asyncio.to_thread(self._keep, place(folder, digest), len(content)):
            await asyncio.to_thread(self._store, folder, (content,))
        return digest

    async def put_file(self, organization: OrganizationName, path: Path) -> str:
        """See ports.blobs.BlobStore."""
        folder = self._folder(organization)

        def copy() -> str:
            with path.open("rb") as source:
                return self._store(folder, _chunks(source))

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

    def _folder(self, organization: OrganizationName) -> Path:
        if not _LABEL.fullmatch(organization):
            raise NotFound("no such organization")
        return self._root / organization

    def _find(self, organization: OrganizationName, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFound("no such blob")
        return place(self._folder(organization), digest)

    def _keep(self, path: Path, size: int) -> bool:
        """Tell whether the blob is there; it is not removed then for a while."""
        try:
            with _disk_errors(), self._lock.shared():
                if path.stat().st_size != size:
                    return False
                stamp(path)
        except FileNotFoundError:
            return False
        return True

    def _store(self, folder: Path, chunks: Iterable[bytes]) -> str:
        """Write a blob durably; return its digest."""
        with _disk_errors():
            draft = folder / f"{DRAFT}{secrets.token_hex(8)}"
            handle = self._open_draft(draft)
            try:
                digest = hashlib.sha256()
                with os.fdopen(handle, "wb") as file:
                    for chunk in chunks:
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                path = place(folder, digest.hexdigest())
                with self._lock.shared():
                    _make_folder(path.parent)
                    # The last chunk may have come a while ago.
                    stamp(draft)
                    draft.replace(path)
                    # Within the lock: an empty folder may go at any other time.
                    sync_folder(path.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return digest.hexdigest()

    def _open_draft(self, draft: Path) -> int:
        """Make the draft, which from then on keeps its folder from being removed as empty."""
        _make_folder(self._root)
        with self._lock.shared():
            _make_folder(draft.parent)
            return os.open(draft, _NEW_FILE, 0o600)


def place(folder: Path, digest: str) -> Path:
    """Return where a blob lies in the folder of its organisation."""
    return folder / digest[:2] / digest[2:]


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


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("the storage is full", reason="StorageFull") from error
        raise
