"""What every BlobStore promises, and what the one on files promises besides."""

import asyncio
import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from tests.fakes.blobs import FakeBlobStore

from ignite.blobs.files import FileBlobStore
from ignite.domain.errors import Internal, NotFound, Unavailable
from ignite.domain.identity import OrganizationName
from ignite.ports.blobs import BlobStore

ACME, RIVAL = OrganizationName("acme"), OrganizationName("rival")
CONTENT = b"def handler(payload, ctx): return payload\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "blobs")


@pytest.fixture(params=["fake", "files"])
def store(request: pytest.FixtureRequest, files: FileBlobStore) -> BlobStore:
    return FakeBlobStore() if request.param == "fake" else files


async def read(store: BlobStore, organization: OrganizationName, digest: str) -> bytes:
    return b"".join([chunk async for chunk in store.stream(organization, digest)])


@pytest.mark.parametrize("content", [b"", CONTENT, os.urandom(3 * 1024 * 1024 + 1)])
async def test_bytes_are_read_back_by_their_digest(store: BlobStore, content: bytes) -> None:
    digest = await store.put(ACME, content)
    assert digest == hashlib.sha256(content).hexdigest()
    assert await store.get(ACME, digest) == content
    assert await read(store, ACME, digest) == content


async def test_storing_again_is_the_same_blob(store: BlobStore) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.put(ACME, CONTENT)) for _ in range(8)]
    assert {task.result() for task in tasks} == {DIGEST}
    assert await store.get(ACME, DIGEST) == CONTENT


async def test_file_is_stored_like_its_content(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    assert await store.put_file(ACME, source) == DIGEST
    source.write_bytes(b"changed")
    assert await store.get(ACME, DIGEST) == CONTENT


async def test_organisations_do_not_see_each_other_s_blobs(store: BlobStore) -> None:
    await store.put(ACME, CONTENT)
    with pytest.raises(NotFound):
        await store.get(RIVAL, DIGEST)
    with pytest.raises(NotFound):
        await read(store, RIVAL, DIGEST)


@pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../" + DIGEST, DIGEST.upper(), "\0" * 64])
async def test_unknown_or_hostile_digest_is_not_found(store: BlobStore, digest: str) -> None:
    await store.put(ACME, CONTENT)
    with pytest.raises(NotFound):
        await store.get(ACME, digest)
    with pytest.raises(NotFound):
        await read(store, ACME, digest)


@pytest.mark.parametrize("organization", ["..", "", "a/b", "/etc", "a" * 64])
async def test_hostile_organisation_writes_nowhere(
    files: FileBlobStore, tmp_path: Path, organization: str
) -> None:
    with pytest.raises(NotFound):
        await files.put(OrganizationName(organization), CONTENT)
    assert not os.listdir(tmp_path)


async def test_files_are_closed_to_others_and_leave_no_draft(
    files: FileBlobStore, tmp_path: Path
) -> None:
    await files.put(ACME, CONTENT)
    paths = list((tmp_path / "blobs").rglob("*"))
    assert [path.is_file() for path in paths].count(True) == 1
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in paths)


async def test_damaged_bytes_are_not_handed_out_as_good(
    files: FileBlobStore, tmp_path: Path
) -> None:
    await files.put(ACME, CONTENT)
    (file,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    file.write_bytes(b"X" + CONTENT[1:])
    with pytest.raises(Internal):
        await files.get(ACME, DIGEST)
    with pytest.raises(Internal):
        await read(files, ACME, DIGEST)


async def test_bytes_and_folders_are_synced_before_the_digest_is_given(
    files: FileBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await files.put(ACME, CONTENT)
    blobs = tmp_path / "blobs"
    drafts = [path for path in synced if ".draft-" in path]
    assert len(drafts) == 1
    folders = {str(tmp_path), str(blobs), str(blobs / "acme"), str(blobs / "acme" / DIGEST[:2])}
    assert folders <= set(synced)
    assert synced[-1] == str(blobs / "acme" / DIGEST[:2])


async def test_full_disk_is_unavailable_and_leaves_no_draft(
    files: FileBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    (tmp_path / "blobs/acme").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable) as raised:
        await files.put(ACME, CONTENT)
    assert raised.value.reason == "StorageFull"
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
