"""The operator's certificate reaches the server's user, and a wrong one is one clear line."""

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ignite.layout import Layout
from ignite.pki import ensure_pki
from ignite.privileges import Owner
from ignite.settings import ServerSettings, SettingsError
from ignite.supervisor.certificate import place_certificate


@dataclass
class Files:
    certificate: Path
    key: Path
    other_key: Path
    layout: Layout

    def place(self, certificate: Path, key: Path, owner: Owner | None = None) -> ServerSettings:
        settings = ServerSettings(tls_cert_file=certificate, tls_key_file=key)
        return place_certificate(settings, self.layout, owner)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    class Here(Layout):
        @property
        def run(self) -> Path:
            return tmp_path / "run"

    pki = tmp_path / "pki"
    pki.mkdir()
    ensure_pki(pki, now=datetime(2026, 1, 1, tzinfo=UTC), owner=None)
    layout = Here(tmp_path / "data")
    layout.run.mkdir()
    return Files(pki / "server.pem", pki / "server-key.pem", pki / "client-key.pem", layout)


def test_copies_are_for_the_owner_alone(files: Files) -> None:
    placed = files.place(files.certificate, files.key)
    assert placed.tls_cert_file is not None
    assert placed.tls_key_file is not None
    assert placed.tls_key_file.parent == files.layout.run / "tls"
    assert placed.tls_key_file.read_bytes() == files.key.read_bytes()
    assert placed.tls_cert_file.read_bytes() == files.certificate.read_bytes()
    assert stat.S_IMODE(placed.tls_key_file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_key_that_root_alone_may_read_reaches_the_servers_user(files: Files) -> None:
    placed = files.place(files.certificate, files.key, Owner(name="nobody", uid=65534, gid=65534))
    assert placed.tls_key_file is not None
    assert placed.tls_key_file.stat().st_uid == 65534
    assert files.key.stat().st_uid == 0


def test_a_second_start_takes_the_renewed_certificate(files: Files) -> None:
    files.place(files.certificate, files.key)
    renewed = files.place(files.certificate.with_name("client.pem"), files.other_key)
    assert renewed.tls_key_file is not None
    assert renewed.tls_key_file.read_bytes() == files.other_key.read_bytes()


def test_without_a_certificate_nothing_is_written(files: Files) -> None:
    settings = ServerSettings()
    assert place_certificate(settings, files.layout, None) is settings
    assert not list(files.layout.run.iterdir())


def test_both_files_change_at_once_and_only_when_they_have_changed(files: Files) -> None:
    placed = files.place(files.certificate, files.key)
    assert placed.tls_cert_file is not None
    folder = placed.tls_cert_file.parent
    first = (folder / "..data").readlink()
    files.place(files.certificate, files.key)
    assert (folder / "..data").readlink() == first
    files.place(files.certificate.with_name("client.pem"), files.other_key)
    assert (folder / "..data").readlink() != first
    # One copy, the link to it, and a link a file.
    assert len(list(folder.iterdir())) == 4


def test_files_that_do_not_fit_leave_the_earlier_ones_in_force(files: Files) -> None:
    placed = files.place(files.certificate, files.key)
    assert placed.tls_cert_file is not None
    with pytest.raises(SettingsError):
        files.place(files.certificate.with_name("client.pem"), files.key)
    assert placed.tls_cert_file.read_bytes() == files.certificate.read_bytes()
    assert len(list(placed.tls_cert_file.parent.iterdir())) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give folders away")
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_folder_that_the_servers_user_put_there_is_refused(files: Files, kind: str) -> None:
    folder, elsewhere = files.layout.run / "tls", files.layout.run / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    with pytest.raises((SettingsError, OSError)):
        files.place(files.certificate, files.key)
    assert list(elsewhere.iterdir()) == []


class TestRefusals:
    def test_missing_file_names_its_variable(self, files: Files) -> None:
        with pytest.raises(SettingsError, match=r"TLS_KEY_FILE: cannot read .*: No such file"):
            files.place(files.certificate, Path("/nowhere/key.pem"))

    def test_key_of_another_certificate(self, files: Files) -> None:
        with pytest.raises(SettingsError, match="key values mismatch"):
            files.place(files.certificate, files.other_key)

    def test_something_else_than_pem(self, files: Files, tmp_path: Path) -> None:
        noise = tmp_path / "noise"
        noise.write_bytes(b"\x00\x01")
        with pytest.raises(SettingsError, match="unencrypted, as PEM"):
            files.place(noise, files.key)
        assert not list(files.layout.run.iterdir())
