"""Tables of rows and folders of images, below a local folder or on the hub.

A local folder is laid out as a hub repository (split_files.py): as Parquet or JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import datasets

from unime.data.rows import Row, check_columns
from unime.data.shards import Shards, read_json_rows, read_parquet_rows
from unime.data.split_files import split_files
from unime.errors import DataError

ADDRESS = re.compile(r"[A-Za-z][\w+.-]+://")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass
class ImageFolder:
    """Finds images by the relative paths of the rows, and nothing outside its folders."""

    roots: list[Path]  # tried in order

    def find(self, path: str, kind: str = "image") -> str:
        """The absolute path of an image.

        Args:
            path: relative to one of the folders, or absolute and inside of it.

        Raises:
            DataError: the path names no file, is an address, leaves the folders, or there is no
                such file; names the path.
        """
        if not self.roots:
            raise DataError(f"{path!r}: data.image_root, where the {kind}s are, is not set")
        if ADDRESS.match(path):
            raise DataError(f"{path!r} is an address; none is fetched, a path is expected")
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if not parts:
            raise DataError(f"{path!r}: names no file")
        below = [] if ".." in parts else [(root, _within(root, path)) for root in self.roots]
        places = [os.path.join(root, inside) for root, inside in below if inside is not None]
        exists = os.path.isdir if kind == "folder" else os.path.isfile
        if found := next(filter(exists, places), None):
            return found
        if not places or PureWindowsPath(path).is_absolute():
            raise DataError(f"{path!r}: leaves the image folder")
        raise DataError(f"{path!r}: no such {kind} in {' or '.join(map(str, self.roots))}")

    def find_folder(self, path: str) -> str:
        """The absolute path of a folder, that of a video's frames; raises as for an image."""
        return self.find(path, "folder")


def _within(root: Path, path: str) -> str | None:
    """The path relative to a folder, in which an absolute one may lie; None: it does not."""
    if not os.path.isabs(path):
        return path
    bases = [base for base in (root, root.resolve()) if Path(path).is_relative_to(base)]
    return os.path.relpath(path, bases[0]) if bases else None


@dataclass
class Table:
    """The rows of one subset, memory-mapped, and where each of them comes from."""

    rows: datasets.Dataset  # pictures are the bytes that it holds
    shards: Shards  # or the hub's name instead of a file

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return Row(self.rows[number], self.where(number))

    def read(self, numbers: Sequence[int] | None = None, at_once: int = 1000) -> Iterator[Row]:
        """These rows or all, many times faster than one by one.

        Args:
            at_once: how many are in memory.
        """
        numbers = range(len(self)) if numbers is None else numbers
        batches = self.rows.select(numbers).iter(batch_size=at_once)
        cells = (cells for batch in batches for cells in zip(*batch.values(), strict=True))
        names = self.rows.column_names
        for number, values in zip(numbers, cells, strict=True):
            yield Row(dict(zip(names, values, strict=True)), self.where(number))

    def where(self, row: int) -> str:
        for name, count in self.shards:
            if row < count:
                return f"{name}, row {row}"
            row -= count
        raise IndexError(row)


def image_folder(root: str, image_root: str | None, below: list[str]) -> ImageFolder:
    if image_root is not None:
        if not Path(image_root).is_dir():
            raise DataError(f"data.image_root: no folder {image_root!r}")
        return ImageFolder([Path(image_root).absolute()])
    base = Path(root).absolute()
    return ImageFolder([base, *(base / name for name in below)] if base.is_dir() else [])


def load_table(
    root: str,
    subset: str | None,
    split: str,
    revision: str | None,
    required: tuple[str, ...],
    optional: tuple[str, ...],
) -> Table:
    """The rows of a split, with these columns, of a local folder or a hub repository.

    Args:
        subset: the hub's configuration; None: the only one. A local folder's are those that its
            README.md declares, or its folders.
    """
    if Path(root).is_dir():
        if revision is not None:
            raise DataError(
                f"data.revision: {revision!r} is for a hub repository, {root} is a folder"
            )
        files = split_files(Path(root), subset, split)
        read = read_parquet_rows if files[0].suffix == ".parquet" else read_json_rows
        return Table(*read(files, required, optional))
    if not HUB_NAME.fullmatch(root):
        raise DataError(f"data.root: no folder {root!r}")
    try:
        rows = datasets.load_dataset(root, subset, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"data.root: no folder {root!r}, and as a hub dataset: {reason}") from None
    name = " ".join(part for part in (root, subset, split) if part)
    check_columns(name, rows.column_names, required)
    rows = rows.select_columns([c for c in (*required, *optional) if c in rows.column_names])
    for column, kind in rows.features.items():
        if isinstance(kind, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return Table(rows, [(name, len(rows))])
