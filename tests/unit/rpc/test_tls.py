"""Certificates of gRPC listeners when they are renewed, and when the disk has a bad moment."""

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ignite.pki import Pki, ensure_pki
from ignite.rpc.tls import _Files

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=3650)


def files_of(folder: Path) -> tuple[_Files, Pki]:
    pki = ensure_pki(folder, now=NOW, owner=None)
    files = _Files(pki.server, pki.server_key, pki.ca)
    files.load()
    return files, pki


def failing_once(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have one read of `path` find no descriptor left."""
    left = [OSError(errno.EMFILE, "too many open files")]
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == path and left:
            raise left.pop()
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_what_has_not_changed_is_not_read(tmp_path: Path) -> None:
    files, _ = files_of(tmp_path)
    assert files.renewed() is None


def test_a_renewed_certificate_is_taken_though_one_read_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, pki = files_of(tmp_path)
    ensure_pki(tmp_path, now=LATER, owner=None)
    failing_once(monkeypatch, pki.server)
    assert files.renewed() is None
    assert files.renewed() is not None
    assert files.renewed() is None


def test_a_bad_disk_makes_no_other_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pki = files_of(tmp_path)
    before = pki.ca.read_bytes()
    failing_once(monkeypatch, pki.ca_key)
    with pytest.raises(OSError, match="too many open files"):
        ensure_pki(tmp_path, now=NOW, owner=None)
    ensure_pki(tmp_path, now=NOW, owner=None)
    assert pki.ca.read_bytes() == before
