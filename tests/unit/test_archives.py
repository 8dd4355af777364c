"""Archives of strangers: what is read, and what is refused before a byte is written."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ignite.archives import inspect, is_archive, unpack
from ignite.domain.archives import ArchiveLimits, Listing
from ignite.domain.errors import InvalidArgument

LIMITS = ArchiveLimits(
    archive_bytes=4 * 1024 * 1024, unpacked_bytes=8 * 1024 * 1024, entries=100, ratio=50
)

Files = dict[str, bytes]


class Unseekable(io.BytesIO):
    """A pipe, as far as zipfile can tell: it then writes sizes behind the data."""

    def tell(self) -> int:
        raise OSError

    def seek(self, *_: int) -> int:
        raise OSError


def make_zip(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def make_tar(files: Files, form: int = tarfile.GNU_FORMAT) -> bytes:
    return gzip.compress(
        plain_tar([(member(name, len(data)), data) for name, data in files.items()], form)
    )


def member(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def plain_tar(
    members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return gzip.compress(plain_tar(list(members)))


MAKERS = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make_zip, id="zip"),
        pytest.param(lambda files: make_zip(files, zipfile.ZIP_STORED), id="zip-stored"),
        pytest.param(make_tar, id="tar-gnu"),
        pytest.param(lambda files: make_tar(files, tarfile.PAX_FORMAT), id="tar-pax"),
        pytest.param(lambda files: make_tar(files, tarfile.USTAR_FORMAT), id="tar-ustar"),
    ],
)
Maker = Callable[[Files], bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "in").mkdir()
    handle = os.open(tmp_path / "in", os.O_RDONLY | os.O_DIRECTORY)
    yield handle
    os.close(handle)


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def reason_of(content: bytes, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        inspect(content, limits)
    assert refusal.value.field == "code.archive"
    return refusal.value.reason


class TestReading:
    @MAKERS
    def test_files_come_out_as_they_went_in(self, make: Maker, tmp_path: Path, folder: int) -> None:
        files = {
            "handler.py": b"def handler(): ...\n",
            "pkg/util.py": b"x" * 3000,
            "pkg/empty": b"",
        }
        listing = unpack(make(files), folder, LIMITS)
        assert tree(tmp_path / "in") == files
        assert listing.files == files.keys()

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_and_foreign_names_in_tar(self, form: int, tmp_path: Path, folder: int) -> None:
        files = {"a" * 120 + "/" + "b" * 200: b"1", "ünïcode/日本.py": b"2"}
        unpack(make_tar(files, form), folder, LIMITS)
        assert tree(tmp_path / "in") == files

    def test_modes_are_only_two(self, tmp_path: Path, folder: int) -> None:
        setuid, secret = member("run.sh", 1), member("secret", 1)
        setuid.mode, secret.mode = 0o4755, 0o600
        unpack(tar_of((setuid, b"1"), (secret, b"2")), folder, LIMITS)
        assert (tmp_path / "in/run.sh").stat().st_mode & 0o7777 == 0o755
        assert (tmp_path / "in/secret").stat().st_mode & 0o7777 == 0o644

    def test_dot_entries_of_a_packed_folder_are_fine(self, tmp_path: Path, folder: int) -> None:
        content = tar_of(
            (member("./", kind=tarfile.DIRTYPE), b""), (member("./handler.py", 1), b"x")
        )
        unpack(content, folder, LIMITS)
        assert tree(tmp_path / "in") == {"handler.py": b"x"}

    def test_archive_of_git_with_its_global_header(self) -> None:
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0123abcd"}
        ) as archive:
            archive.addfile(member("handler.py", 1), io.BytesIO(b"x"))
        assert inspect(gzip.compress(out.getvalue()), LIMITS).files == {"handler.py"}

    def test_several_gzip_members_are_one_stream(self) -> None:
        plain = plain_tar([(member("a", 3000), os.urandom(3000))])
        content = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + bytes(100)
        assert inspect(content, LIMITS).files == {"a"}

    def test_zip_written_as_a_stream_with_zip64_fields(self) -> None:
        out = Unseekable()
        with (
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("handler.py", "w", force_zip64=True) as file,
        ):
            file.write(b"x" * 5000)
        assert inspect(out.getvalue(), LIMITS).files == {"handler.py"}

    def test_what_macos_adds_is_left_out(self) -> None:
        listing = inspect(
            make_zip({"app/handler.py": b"x", "__MACOSX/app/._handler.py": b"y"}), LIMITS
        )
        assert listing.files == {"app/handler.py"}

    def test_archives_are_known_by_their_first_bytes(self) -> None:
        assert is_archive(make_zip({"a": b""}))
        assert is_archive(make_tar({"a": b""}))
        assert not is_archive(b"def handler(payload, ctx): ...")


class TestPrefix:
    def listing(self, *names: str) -> Listing:
        return inspect(make_zip(dict.fromkeys(names, b"x")), LIMITS)

    def test_one_common_top_folder_is_stripped(self, tmp_path: Path, folder: int) -> None:
        content = make_zip({"app/": b"", "app/handler.py": b"x", "app/lib/a.py": b"y"})
        prefix = inspect(content, LIMITS).prefix(["handler.py"])
        assert prefix == "app/"
        unpack(content, folder, LIMITS, prefix=prefix)
        assert tree(tmp_path / "in") == {"handler.py": b"x", "lib/a.py": b"y"}

    @pytest.mark.parametrize(
        "names",
        [
            ("handler.py", "app/handler.py"),
            ("app/handler.py", "other/x"),
            ("app/sub/handler.py",),
            ("app/main.py",),
        ],
    )
    def test_nothing_else_is_stripped(self, names: tuple[str, ...]) -> None:
        assert self.listing(*names).prefix(["handler.py"]) == ""


class TestNames:
    @MAKERS
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("../evil", "ArchivePathTraversal"),
            ("a/../../evil", "ArchivePathTraversal"),
            ("a/..", "ArchivePathTraversal"),
            ("/etc/passwd", "ArchiveAbsolutePath"),
            ("C:/evil", "ArchiveAbsolutePath"),
            ("..\\evil", "ArchiveBadName"),
            ("a\nb", "ArchiveBadName"),
            ("a\x1b[31mb", "ArchiveBadName"),
            ("a\u0085b", "ArchiveBadName"),
            ("a//b", "ArchiveBadName"),
            ("a/./b", "ArchiveBadName"),
            ("/".join("abcdefghij" * 7), "ArchiveNameTooLong"),
        ],
    )
    def test_bad_names_are_refused(self, make: Maker, name: str, reason: str) -> None:
        assert reason_of(make({"ok.py": b"x", name: b"x"})) == reason

    @pytest.mark.parametrize("make", [make_zip, make_tar])
    def test_overlong_names_are_refused(self, make: Maker) -> None:
        assert reason_of(make({"é" * 200: b"x"})) == "ArchiveNameTooLong"
        assert reason_of(make({"/".join(["a" * 250] * 5): b"x"})) == "ArchiveNameTooLong"

    def test_a_name_that_is_not_utf8_is_refused(self) -> None:
        assert (
            reason_of(make_zip({"AAAA": b"x"}).replace(b"AAAA", b"A\xff\xfeA")) == "ArchiveBadName"
        )
        assert reason_of(tar_of((member("a\udcff", 1), b"x"))) == "ArchiveBadName"

    def test_a_nul_in_a_name_is_refused(self) -> None:
        content = make_zip({"aXb.py": b"x"}).replace(b"aXb.py", b"a\0b.py")
        assert reason_of(content) == "ArchiveBadName"

    @MAKERS
    @pytest.mark.parametrize(
        "names",
        [
            ("a.py", "A.py"),
            ("straße", "STRASSE"),
            ("caf\u00e9", "cafe\u0301"),
            ("ﬁle", "file"),
            ("Dir/a", "dir/b"),
            ("a", "a/b"),
            ("a/b", "a"),
        ],
    )
    def test_names_that_collide_are_refused(self, make: Maker, names: tuple[str, str]) -> None:
        assert reason_of(make(dict.fromkeys(names, b"x"))) == "ArchiveNameCollision"

    def test_the_same_name_twice_is_refused(self) -> None:
        assert (
            reason_of(tar_of((member("a", 1), b"1"), (member("a", 1), b"2")))
            == "ArchiveNameCollision"
        )

    def test_the_message_names_the_entry_and_hides_control_characters(self) -> None:
        with pytest.raises(InvalidArgument, match=r"^code\.archive: entry 'a\\x1b\[31mb' has "):
            inspect(make_zip({"a\x1b[31mb": b""}), LIMITS)


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (tarfile.SYMTYPE, "ArchiveLink"),
            (tarfile.LNKTYPE, "ArchiveLink"),
            (tarfile.CHRTYPE, "ArchiveSpecialFile"),
            (tarfile.BLKTYPE, "ArchiveSpecialFile"),
            (tarfile.FIFOTYPE, "ArchiveSpecialFile"),
            (tarfile.GNUTYPE_SPARSE, "ArchiveSpecialFile"),
            (b"V", "ArchiveSpecialFile"),
            (b"M", "ArchiveSpecialFile"),
        ],
    )
    def test_what_is_no_file_is_refused_in_tar(self, kind: bytes, reason: str) -> None:
        assert reason_of(tar_of((member("x", kind=kind, link="/etc/passwd"), b""))) == reason

    def test_a_sparse_file_of_pax_is_refused(self) -> None:
        info = member("x", 1)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "999999999"}
        content = gzip.compress(plain_tar([(info, b"x")], tarfile.PAX_FORMAT))
        assert reason_of(content) == "ArchiveSpecialFile"

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [
            (0o120777, "ArchiveLink"),
            (0o010644, "ArchiveSpecialFile"),
            (0o020666, "ArchiveSpecialFile"),
        ],
    )
    def test_what_is_no_file_is_refused_in_zip(self, mode: int, reason: str) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            info = zipfile.ZipInfo("x")
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, "/etc/passwd")
        assert reason_of(out.getvalue()) == reason

    def test_an_encrypted_zip_is_refused(self) -> None:
        content = bytearray(make_zip({"a": b"x"}))
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        assert reason_of(bytes(content)) == "ArchiveEncrypted"

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_an_unknown_compression_is_refused(self, method: int) -> None:
        assert reason_of(make_zip({"a": b"x" * 100}, method)) == "ArchiveCompressionUnsupported"


class TestBounds:
    @MAKERS
    def test_too_many_entries_are_refused(self, make: Maker) -> None:
        content = make({f"f{number}": b"" for number in range(101)})
        assert reason_of(content) == "ArchiveTooManyEntries"

    @pytest.mark.parametrize("make", [make_zip, make_tar])
    def test_a_bomb_is_refused_by_its_ratio(self, make: Maker) -> None:
        assert reason_of(make({"zeros": bytes(7 * 1024 * 1024)})) == "ArchiveBomb"

    @MAKERS
    def test_too_much_in_all_is_refused(self, make: Maker) -> None:
        noise = os.urandom(1000) * 50
        limits = ArchiveLimits(archive_bytes=10**7, unpacked_bytes=120_000, entries=100, ratio=200)
        content = make({"a": noise, "b": noise, "c": noise})
        assert reason_of(content, limits) == "ArchiveUnpackedTooLarge"

    def test_an_archive_too_large_as_sent_is_refused(self) -> None:
        limits = ArchiveLimits(archive_bytes=10, unpacked_bytes=10, entries=1, ratio=1)
        assert reason_of(make_zip({"a": b"x"}), limits) == "ArchiveTooLarge"

    def test_a_size_that_lies_in_zip_is_refused(self) -> None:
        content = bytearray(make_zip({"a": bytes(100_000)}))
        at = content.index(b"PK\x01\x02")
        content[at + 24 : at + 28] = struct.pack("<L", 10)
        assert reason_of(bytes(content)) == "ArchiveCorrupt"

    def test_zeros_behind_the_end_of_tar_are_a_bomb_too(self) -> None:
        plain = plain_tar([(member("a", 1), b"x")]) + bytes(16 * 1024 * 1024)
        assert reason_of(gzip.compress(plain)) == "ArchiveBomb"

    def test_endless_extension_headers_are_refused(self) -> None:
        info = member("x" * 60_000, 0)
        one = info.tobuf(tarfile.GNU_FORMAT)[:-512]
        assert reason_of(gzip.compress(one * 1000)) in ("ArchiveBomb", "ArchiveTooManyEntries")

    def test_a_huge_extension_header_is_not_read(self) -> None:
        content = tar_of((member("y" * 100_000, 0), b""))
        assert reason_of(content) == "ArchiveNameTooLong"

    def test_many_empty_gzip_members_are_refused(self) -> None:
        assert reason_of(gzip.compress(b"") * 1000) == "ArchiveTooManyEntries"


class TestCorruption:
    @MAKERS
    def test_every_cut_is_refused(self, make: Maker) -> None:
        content = make({"a": os.urandom(600), "b": b"x"})
        for end in range(2, len(content) - 1, 7):
            assert reason_of(content[:end]) == "ArchiveCorrupt"

    @pytest.mark.parametrize("make", [make_zip, make_tar])
    def test_a_wrong_crc_is_refused(self, make: Maker) -> None:
        data = os.urandom(600)
        content = (
            make({"a": data}) if make is make_tar else make_zip({"a": data}, zipfile.ZIP_STORED)
        )
        if make is make_tar:
            broken = content[:-8] + struct.pack("<L", zlib.crc32(content)) + content[-4:]
        else:
            at = content.index(data)
            broken = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        assert reason_of(broken) == "ArchiveCorrupt"

    def test_two_names_for_one_entry_are_refused(self) -> None:
        content = make_zip({"aaaa": b"x"})
        assert reason_of(content.replace(b"aaaa", b"bbbb", 1)) == "ArchiveCorrupt"

    def test_entries_that_share_their_data_are_refused(self) -> None:
        content = make_zip({"aaaa": b"x" * 100, "aaab": b"x" * 100})
        first, second = content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")
        local = content.replace(b"aaab", b"aaaa")
        shared = bytearray(local)
        shared[second + 42 : second + 46] = local[first + 42 : first + 46]
        assert reason_of(bytes(shared)) in ("ArchiveCorrupt", "ArchiveNameCollision")

    def test_something_behind_the_end_is_refused(self) -> None:
        assert reason_of(make_zip({"a": b"x"}) + b"more") == "ArchiveCorrupt"
        assert reason_of(make_tar({"a": b"x"}) + b"more") == "ArchiveCorrupt"
        hidden = plain_tar([(member("a"), b"")]) + plain_tar([(member("b"), b"")])
        assert reason_of(gzip.compress(hidden)) == "ArchiveCorrupt"

    def test_a_zip64_directory_that_contradicts_is_refused(self) -> None:
        content = make_zip({"a": b"x"})
        at = content.rindex(b"PK\x05\x06")
        start = content.index(b"PK\x01\x02")
        for count, reason in ((1, None), (3, "ArchiveCorrupt")):
            end64 = struct.pack(
                "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, at - start, start
            )
            locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
            end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, at - start, start, 0)
            wide = content[:at] + end64 + locator + end
            if reason is None:
                assert inspect(wide, LIMITS).files == {"a"}
            else:
                assert reason_of(wide) == reason

    def test_gzip_of_something_else_is_refused(self) -> None:
        assert reason_of(gzip.compress(b"hello" * 1000)) == "ArchiveCorrupt"

    def test_neither_zip_nor_gzip_is_refused(self) -> None:
        assert reason_of(plain_tar([(member("a"), b"")])) == "ArchiveFormatUnknown"
        assert reason_of(b"") == "ArchiveFormatUnknown"

    def test_an_archive_without_files_is_refused(self) -> None:
        assert reason_of(make_zip({"a/": b""})) == "ArchiveEmpty"


class TestWriting:
    def test_nothing_is_written_when_the_last_entry_is_bad(
        self, tmp_path: Path, folder: int
    ) -> None:
        with pytest.raises(InvalidArgument):
            unpack(make_zip({"good.py": b"x", "../evil": b"x"}), folder, LIMITS)
        assert list((tmp_path / "in").iterdir()) == []

    def test_a_link_that_lies_there_already_is_not_followed(
        self, tmp_path: Path, folder: int
    ) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "in/pkg").symlink_to(tmp_path / "outside")
        with pytest.raises(OSError):  # noqa: PT011 - ELOOP or ENOTDIR
            unpack(make_zip({"pkg/a": b"x"}), folder, LIMITS)
        assert list((tmp_path / "outside").iterdir()) == []


NAMES = st.text(alphabet=st.sampled_from("ab./\\\x01\u00e9~ A"), min_size=1, max_size=12)
PACKED = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=5)


def try_unpack(content: bytes, root: Path) -> None:
    inside = root / "in"
    inside.mkdir()
    handle = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack(content, handle, LIMITS)
    except InvalidArgument:
        assert list(inside.iterdir()) == []
    finally:
        os.close(handle)
    assert [path.name for path in root.iterdir()] == ["in"]
    assert not any(path.is_symlink() for path in inside.rglob("*"))


class TestAnything:
    """Whatever comes, the answer is a refusal or a tree inside the folder."""

    @given(start=st.sampled_from([b"PK\x03\x04", b"PK", b"\x1f\x8b\x08\0", b""]), rest=st.binary())
    @settings(deadline=None)
    def test_any_bytes(
        self, start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        try_unpack(start + rest, tmp_path_factory.mktemp("any"))

    @given(plain=st.binary(max_size=3000))
    @settings(deadline=None)
    def test_any_tar(self, plain: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        try_unpack(gzip.compress(plain), tmp_path_factory.mktemp("tar"))

    @given(files=PACKED, data=st.data(), kind=st.sampled_from(["zip", "tar", "pax"]))
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
    def test_any_flip_in_a_real_archive(
        self,
        files: Files,
        data: st.DataObject,
        kind: str,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        form = tarfile.PAX_FORMAT if kind == "pax" else tarfile.GNU_FORMAT
        plain = (
            bytearray(make_zip(files))
            if kind == "zip"
            else bytearray(plain_tar([(member(n, len(d)), d) for n, d in files.items()], form))
        )
        for _ in range(data.draw(st.integers(0, 3))):
            plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(plain) if kind == "zip" else gzip.compress(bytes(plain))
        try_unpack(content, tmp_path_factory.mktemp("flip"))
