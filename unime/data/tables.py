"""Tables of rows and folders of images, below a local folder or on the hub.

A local folder is laid out as a hub repository (split_files.py): as Parquet or JSON.
"""

from __future__ import annotations

import itertools
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

import pyarrow as pa

from unime.data.json_files import read_json_rows
from unime.data.rows import SHOWN, Row, check_columns
from unime.data.shards import Shards, parquet_rows, place_of
from unime.data.split_files import boundary, check_inside, split_files
from unime.errors import DataError
from unime.inputs.items import video_frames
from unime.runtime.files import regular

ADDRESS = re.compile(r"[A-Za-z][\w+.-]+://|data:")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
HELD_AT_ONCE = 8192  # rows in one piece of a table in memory


@dataclass
class ImageFolder:
    """Finds images by the relative paths of the rows, and nothing outside its folders."""

    roots: list[Path]  # tried in order
    within: str  # the folder out of which no link may lead

    def find(self, path: str, kind: str = "image") -> str:
        """The absolute path of an image.

        Args:
            path: relative to one of the folders, or absolute and inside of it.

        Raises:
            DataError: the path names no file, is an address, leaves the folders, itself or by a
                link, or there is no such file; names the path.
        """
        if not self.roots:
            raise DataError(f"{path!r}: data.image_root, where the {kind}s are, is not set")
        if ADDRESS.match(path):
            raise DataError(f"{path[:SHOWN]!r} is an address; none is fetched, a path is expected")
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if not parts:
            raise DataError(f"{path!r}: names no file")
        written = dict.fromkeys((path, path.replace("\\", "/")))  # the second: of Windows
        tried = [] if ".." in parts else list(itertools.product(self.roots, written))
        below = [(root, _within(root, one)) for root, one in tried]
        places = [os.path.join(root, inside) for root, inside in below if inside is not None]
        exists = os.path.isdir if kind == "folder" else os.path.isfile
        if found := next(filter(exists, places), None):
            check_inside(found, self.within)
            return found
        if not places or PureWindowsPath(path).is_absolute():
            raise DataError(f"{path!r}: leaves the image folder, {self.roots[0]} (image_root)")
        for place in itertools.filterfalse(os.path.isdir, places):
            regular(Path(place))
        raise DataError(f"{path!r}: no such {kind} in {' or '.join(map(str, self.roots))}")

    def find_folder(self, path: str) -> str:
        """The absolute path of a folder, that of a video's frames; raises as for an image."""
        return self.find(path, "folder")

    def frames(self, path: str) -> tuple[str, ...]:
        """The frames of the video whose folder this is.

        Raises:
            DataError: no such folder, it or a frame is elsewhere, or it holds no pictures.
        """
        frames = video_frames(self.find_folder(path))
        for frame in filter(os.path.islink, frames):
            check_inside(frame, self.within)
        return frames


def _within(root: Path, path: str) -> str | None:
    """The path relative to a folder, in which an absolute one may lie; None: it does not."""
    if not os.path.isabs(path):
        return path
    bases = [base for base in (root, root.resolve()) if Path(path).is_relative_to(base)]
    return os.path.relpath(path, bases[0]) if bases else None


class Batches(Protocol):
    def to_batches(self, max_chunksize: int) -> Iterable[pa.RecordBatch]:
        """All rows, so many at a time."""


@dataclass
class Table:
    """The rows of one subset, and where each of them comes from. They are read from their files
    whenever they are asked for: nothing is copied, and no more of them in memory than are looked
    at."""

    rows: Batches  # pictures are the bytes that it holds
    shards: Shards

    def __len__(self) -> int:
        return sum(count for _, count in self.shards)

    def read(self, numbers: Sequence[int] | None = None, at_once: int = 1000) -> Iterator[Row]:
        """These rows, in ascending order, or all.

        Args:
            at_once: how many are in memory.

        Raises:
            DataError: a file that is damaged, or another than when it was opened.
        """
        numbers = range(len(self)) if numbers is None else numbers
        first, before = 0, 0
        for batch in self.rows.to_batches(at_once) if numbers else ():
            size = len(batch)
            last = bisect_left(numbers, before + size, first)
            chosen = numbers[first:last]
            if len(chosen) < size:
                batch = batch.take(pa.array([n - before for n in chosen], pa.int64()))
            for number, values in zip(chosen, batch.to_pylist(), strict=True):
                yield Row(values, self.where(number))
            first = last
            before += size
            if last == len(numbers):
                return

    def where(self, row: int) -> str:
        return place_of(self.shards, row)

    def held(self) -> HeldTable:
        """All rows in memory."""
        batches = self.rows.to_batches(HELD_AT_ONCE)
        return HeldTable(pa.Table.from_batches(batches), self.shards)


class HeldTable(Table):
    """Rows in memory, that are found by their number."""

    rows: pa.Table

    def __getitem__(self, number: int) -> Row:
        return Row(self.rows.slice(number, 1).to_pylist()[0], self.where(number))


def image_folder(
    root: str, image_root: str | None, below: list[str], follow_links: bool = False
) -> ImageFolder:
    base = Path(root if image_root is None else image_root).absolute()
    if image_root is not None and not base.is_dir():
        raise DataError(f"data.image_root: no folder {image_root!r}")
    roots = [base, *(base / name for name in below if image_root is None)] if base.is_dir() else []
    return ImageFolder(roots, boundary(base, follow_links))


def load_table(
    root: str,
    subset: str | None,
    split: str,
    revision: str | None,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    follow_links: bool = False,
) -> Table:
    """The rows of a split, with these columns, of a local folder or a hub repository.

    Args:
        subset: the hub's configuration; None: the only one. A local folder's are those that its
            README.md declares, or its folders.
        follow_links: whether the folder's links may lead out of it.

    Raises:
        DataError: no such folder, repository, subset, split or column, no rows, or a file that
            cannot be read or is elsewhere.
    """
    if not Path(root).is_dir():
        return _load_from_hub(root, subset, split, revision, required, optional)
    if revision is not None:
        raise DataError(f"data.revision: {revision!r} is for a hub repository, {root} is a folder")
    within = boundary(root, follow_links)
    check_inside(Path(root, "README.md"), within)
    files = split_files(Path(root), subset, split)
    for file in files:
        check_inside(file, within)
    if files[0].suffix == ".parquet":
        found = parquet_rows(files, required, optional)
        table = Table(found, found.shards)
    else:
        table = HeldTable(*read_json_rows(files, required, optional))
    if not len(table):
        raise DataError(f"{files[0]}: no rows")
    return table


def _load_from_hub(
    root: str,
    subset: str | None,
    split: str,
    revision: str | None,
    required: tuple[str, ...],
    optional: tuple[str, ...],
) -> Table:
    """As `datasets` keeps it in its cache, which knows it by the repository's commit."""
    if not HUB_NAME.fullmatch(root):
        raise DataError(f"data.root: no folder {root!r}")
    import datasets  # slow to import, and of no use to folders

    try:
        rows = datasets.load_dataset(root, subset, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"data.root: no folder {root!r}, and as a hub dataset: {reason}") from None
    name = " ".join(part for part in (root, subset, split) if part)
    check_columns(name, rows.column_names, required)
    rows = rows.select_columns([c for c in (*required, *optional) if c in rows.column_names])
    return Table(rows.with_format("arrow")[:], [(name, len(rows))])  # pictures are bytes, as stored
