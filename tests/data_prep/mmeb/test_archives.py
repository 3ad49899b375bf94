"""Archives of strangers: ./launch.sh test tests/data_prep/mmeb/test_archives.py"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.mmeb import archives
from data_prep.mmeb.archives import Inside, look_through, unpack
from tests.support.forms.mmeb_copy import write_tar, write_zip
from unime.errors import DataError

Write = Callable[[Path, dict[str, bytes]], Path]
FILES = {"A/Train/1.jpg": b"one", "A/Train/2.jpg": b"", "A/x/ü 3.jpg": b"3" * 3_000_000}


@pytest.fixture(params=[write_zip, write_tar])
def write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


def there(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_all_of_it_and_only_it(tmp_path: Path, write: Write) -> None:
    archive = write(tmp_path / "a", FILES)
    told: list[int] = []
    expected = Inside(3, 3_000_003)
    assert look_through(archive) == unpack(archive, tmp_path / "out", told.append) == expected
    assert there(tmp_path / "out") == FILES and sum(told) == 3_000_003


def test_what_is_there_stays_if_it_is_the_same(tmp_path: Path, write: Write) -> None:
    archive, out = write(tmp_path / "a", FILES), tmp_path / "out"
    unpack(archive, out, str)
    times = {name: (out / name).stat().st_mtime_ns for name in FILES}
    big = out / "A/x/ü 3.jpg"
    big.write_bytes(b"3" * 2_000_000 + b"?" * 1_000_000)  # a power cut
    (out / "A/Train/1.jpg").write_bytes(b"o")
    (out / "A/Train/2.jpg.partial").write_bytes(b"a kill")
    unpack(archive, out, str)
    assert {name: there(out)[name] for name in FILES} == FILES
    assert (out / "A/Train/2.jpg").stat().st_mtime_ns == times["A/Train/2.jpg"]


NAMES = ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\\..\\x.jpg", "a\n.jpg", "x.jpg.partial",
         "n" * 260]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(tmp_path: Path, write: Write, name: str) -> None:
    archive = write(tmp_path / "a", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(DataError, match="no file's name") as caught:
        look_through(archive)
    assert str(archive) in str(caught.value)
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "out", str)
    assert there(tmp_path).keys() == {"out/good.jpg", archive.name}


@pytest.mark.parametrize("names", [("a/1.png", "a/1.png/x.png"), ("a/1.png/x/y.png", "a/1.png")])
def test_a_file_and_a_folder_of_one_name(
    tmp_path: Path, write: Write, names: tuple[str, str]
) -> None:
    archive = write(tmp_path / "a", {name: b"1" for name in names})
    with pytest.raises(DataError) as caught:
        look_through(archive)
    assert str(archive) in str(caught.value) and repr(names[1]) in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
def test_a_tar_of_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("link.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError):
        look_through(tmp_path / "a.tar")


def test_a_zip_of_a_link(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link"):
        look_through(tmp_path / "a.zip")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(archives.SMALL + 1))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("zeros.jpg")
        member.size = archives.SMALL + 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(DataError, match="more than"):
            look_through(tmp_path / name)
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    with pytest.raises(DataError, match="more than 2 files"):
        look_through(write_zip(tmp_path / "many", FILES))


def test_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.jpg", "./a.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="twice"):
        look_through(tmp_path / "a.tar")


def test_a_length_that_is_a_lie(tmp_path: Path) -> None:
    """A name of 3 GB, as the tar says, takes no memory."""
    member = tarfile.TarInfo("x" * 50)
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(10_000))
    with pytest.raises(DataError, match="a name or note"):
        look_through(tmp_path / "a.tar")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_cut_ones(tmp_path: Path, write: Write, share: float) -> None:
    archive: Path = write(tmp_path / "a", FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="damaged"):
        look_through(archive)


def test_a_changed_byte(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a", {"a.jpg": b"picture" * 1000})
    content = bytearray(archive.read_bytes())
    content[500] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, tmp_path / "out", str)
    assert there(tmp_path / "out") == {}
