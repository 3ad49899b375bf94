"""WebDataset's tars: members of one name and several endings, one after another, are a row.

As webdataset's convention has it (webdataset/webdataset, `base_plus_ext` of tariterators: the name
ends at the first dot behind the last slash), with img2dataset's members::

    shard-000000.tar    000000/0001.jpg     the picture (.jpg, .jpeg, .png, .webp, …)
                        000000/0001.txt     "A cat on a mat.", its caption; without it:
                        000000/0001.json    {"caption": "A cat on a mat.", …} (or "text"; or a list
                                            in "captions" or "texts"); without either:
                        000000/0001.cls     "tabby cat", its class

Members with other endings are left out. Nothing is extracted: tars are read from begin to end, a
member at a time; one that is a link, a device, too large, or called as if it lay elsewhere makes
its row a bad one.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from data_prep.tars import tar_members
from unime.config import OwnDataConfig
from unime.data.rows import Row
from unime.errors import DataError
from unime.inputs.items import IMAGE_SUFFIXES, whole_characters
from unime.runtime.files import inside

NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)
PICTURES = frozenset(suffix[1:] for suffix in (*IMAGE_SUFFIXES, ".gif", ".tif", ".tiff"))
TEXTS = ("txt", "json", "cls")
CAPTIONS = ("caption", "text", "captions", "texts")  # of a .json
LARGEST_PICTURE, LARGEST_TEXT = 1 << 28, 1 << 22  # bytes
Member = tuple[str, str, bytes | DataError]  # its row's name, its ending, its content


class Tars:
    """A tar, or all of a folder, as shards of one set."""

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.files = tars_at(path)
        self.image_root = str((path if path.is_dir() else path.parent).absolute())
        self.recognised = [
            f"{len(self.files)} tars ({self.files[0].name}, …): .jpg, .png, … → picture, .txt, else"
            " .json's caption, else .cls → caption"
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        found = tars_at(path)
        return f"{len(found)} tars, as of WebDataset" if found else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file in self.files:
            rows = groupby(members(file), key=lambda member: member[0])
            for number, (name, found) in enumerate(rows):
                where, cells = f"{file}, row {number}", _cells(found)  # raises of a damaged tar
                try:
                    yield _read(Row(cells, where), f"{file.name}:{number}")
                except DataError as error:
                    yield BadRow(where, f"{name}: {str(error).removeprefix(where).lstrip(', ')}")


def tars_at(path: Path) -> list[Path]:
    """The tar, or those of a folder, in order; img2dataset puts tables of its own beside them."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix == ".tar" and file.is_file()]


def _cells(found: Iterator[Member]) -> dict[str, bytes | DataError]:
    cells: dict[str, bytes | DataError] = {}
    for _, ending, content in found:
        twice = DataError("there are two of it in the row")
        cells[ending] = twice if ending in cells else content
    return cells


def _read(row: Row, row_id: str) -> SourceRow:
    for ending, content in row.values.items():
        if isinstance(content, DataError):
            raise row.error(str(content), ending)
    pictures = [ending for ending in row.values if _is_picture(ending)]
    if len(pictures) != 1:
        raise row.error(f"{len(pictures)} pictures, expected one", *pictures)
    if not row[pictures[0]]:
        raise row.error("empty", pictures[0])
    captions = tuple(SourceItem(text) for text in _captions(row))
    query = SourceItem("", (row[pictures[0]],), None, (pictures[0],))
    return SourceRow(row.where, row_id, query, captions, is_caption=True)


def _captions(row: Row) -> list[str]:
    ending = next((one for one in TEXTS if one in row.values), None)
    if ending is None:
        raise row.error("no caption: neither .txt, .json nor .cls")
    try:
        text = row[ending].decode("utf-8-sig")
        found: Any = json.loads(text) if ending == "json" else text
    except (ValueError, RecursionError) as error:
        raise row.error(f"cannot read it: {error}", ending) from None
    if ending == "json":
        if not isinstance(found, dict):
            raise Row({ending: found}, row.where).expected("an object", ending)
        key = next((key for key in CAPTIONS if found.get(key)), None)
        if key is None:
            raise row.error(f"none of {', '.join(CAPTIONS)} is in it", ending)
        found, ending = whole_characters(found[key]), f"json.{key}"
    cells = Row({ending: found if isinstance(found, list) else [found]}, row.where)
    return [text.strip() for text in cells.texts(ending)]


def _is_picture(ending: str) -> bool:
    return ending.rpartition(".")[2] in PICTURES


def members(file: Path) -> Iterator[Member]:
    """The members of a tar that may belong to rows, one at a time.

    Raises:
        DataError: a tar that is damaged, or ends early.
    """
    try:
        for member, pieces in tar_members(file):
            named = NAME.fullmatch(member.name)
            ending = named[2].lower() if named else ""
            if member.isdir() or not named or not (_is_picture(ending) or ending in TEXTS):
                continue
            yield whole_characters(named[1]), ending, _content(member, ending, pieces)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{file}: a damaged tar: {error}") from None


def _content(member: tarfile.TarInfo, ending: str, pieces: Iterator[bytes]) -> bytes | DataError:
    limit = LARGEST_PICTURE if _is_picture(ending) else LARGEST_TEXT
    if not inside(member.name.replace("\\", "/")):
        return DataError(f"{member.name!r} leaves the tar")
    if not member.isreg() or member.issparse():
        return DataError("a link, a device or another thing that is no file")
    if member.size > limit:
        return DataError(f"{member.size} bytes, more than {limit}")
    return b"".join(pieces)
