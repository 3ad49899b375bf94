"""Archives of strangers, unpacked into a folder and nowhere else.

An archive is looked through before anything is written: a name that leads out, a link, a device, a
file twice or with files below it, or more bytes or files than an archive of pictures has ends with
its name. Each file is written aside and renamed, so that after a kill those that are there are
whole; of one that is there already the content is compared, and it is written anew where it
differs.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from data_prep.tars import PIECE, tar_members
from unime.errors import DataError
from unime.runtime.files import PARTIAL, inside, regular

ZIP, TARS = ".zip", (".tar", ".tar.gz", ".tgz")
SUFFIXES = (ZIP, *TARS)
MOST_FILES = 3_000_000
MOST_BYTES = 1 << 40  # of all files
MOST_TIMES = 100  # as large as the archive: pictures are compressed already
SMALL = 1 << 24  # bytes: any archive may unpack to so much
LONGEST_NAME = 255  # bytes of a part of a path
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError),
    *(ValueError, RuntimeError, gzip.BadGzipFile),
)


@dataclass(frozen=True)
class Inside:
    """What is in an archive: files and bytes."""

    files: int
    size: int


@dataclass(frozen=True)
class Entry:
    """A file in an archive, and its content in pieces, which can be read once."""

    name: str
    size: int
    pieces: Iterator[bytes]


def look_through(archive: Path) -> Inside:
    """What is in an archive, all of which may be unpacked.

    Raises:
        DataError: it is damaged, or holds what is not unpacked; names archive and entry.
    """
    return _summed(archive, lambda entry: None)


def unpack(archive: Path, folder: Path, done: Callable[[int], object]) -> Inside:
    """Put all files of an archive into a folder, all of them on the disk when this returns.

    Args:
        done: is told the bytes of each file.

    Raises:
        DataError: as of `look_through`, by which it should have gone before; or damaged data.
    """

    def put(entry: Entry) -> None:
        _put(entry, folder / entry.name)
        done(entry.size)

    found = _summed(archive, put)
    os.sync()  # at once, not a hundred thousand times
    return found


def _summed(archive: Path, use: Callable[[Entry], None]) -> Inside:
    limit = min(MOST_BYTES, max(SMALL, MOST_TIMES * regular(archive).stat().st_size))
    size, names, folders = 0, set[PurePosixPath](), set[PurePosixPath]()
    with _naming(archive):
        for entry in _entries(archive):
            name = PurePosixPath(entry.name)
            if name in names:
                raise DataError(f"{entry.name!r} comes twice")
            names.add(name)
            folders.update(name.parents)
            if name in folders or not names.isdisjoint(name.parents):
                raise DataError(f"{entry.name!r}: a file and a folder of one name")
            size += entry.size
            if len(names) > MOST_FILES or size > limit:
                raise DataError(f"more than {MOST_FILES} files or {limit} bytes")
            use(entry)
    return Inside(len(names), size)


def _entries(archive: Path) -> Iterator[Entry]:
    """The files in an archive, all of them with names that lead to places below a folder."""
    if archive.name.endswith(ZIP):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                plain = kind in (0, stat.S_IFREG) and not info.flag_bits & 1
                _check(info.filename, plain or info.is_dir())
                if not info.is_dir():
                    yield Entry(info.filename, info.file_size, _zipped(opened, info))
        return
    for member, pieces in tar_members(archive):
        plain = member.isreg() and not member.issparse()
        _check(member.name, plain or member.isdir())
        if not member.isdir():
            yield Entry(member.name, member.size, pieces)


def _zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as opened:
        yield from iter(partial(opened.read, PIECE), b"")


def _check(name: str, is_plain: bool) -> None:
    parts = PurePosixPath(name).parts
    is_name = name.isprintable() and "\\" not in name and inside(name) and parts
    fits = all(len(os.fsencode(part)) + len(PARTIAL) <= LONGEST_NAME for part in parts)
    if not is_name or not fits or any(part.endswith(PARTIAL) for part in parts):
        raise DataError(f"{name[:300]!r} leads out of the folder, or is no file's name")
    if not is_plain:
        raise DataError(f"{name!r} is a link, a device or encrypted")


def _put(entry: Entry, path: Path) -> None:
    """Write a file, unless it is there already, content and all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces, known = entry.pieces, 0
    if _has_size(path, entry.size):
        known, first = _as_there(pieces, path)
        if known == entry.size:
            return
        pieces = chain([first], pieces)
    aside = path.with_name(path.name + PARTIAL)
    aside.unlink(missing_ok=True)
    try:
        with aside.open("xb") as target:
            if known:
                with path.open("rb") as there:
                    target.writelines(there.read(PIECE) for _ in range(known // PIECE))
            target.writelines(pieces)
            if target.tell() != entry.size:
                raise DataError(f"{entry.name!r}: its data end early")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _as_there(pieces: Iterator[bytes], path: Path) -> tuple[int, bytes]:
    """How many bytes are as in the file, and the first piece that is not."""
    known = 0
    with path.open("rb") as there:
        for piece in pieces:
            if there.read(len(piece)) != piece:
                return known, piece
            known += len(piece)
    return known, b""


@contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """What is wrong with an archive names it; a full disk is none of it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{archive}: {error}") from None
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{archive}: a damaged archive, or none: {reason}") from None
