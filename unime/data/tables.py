"""Tables of rows and folders of images, below a local folder or on the hub.

A local folder is laid out as a hub repository (split_files.py): as Parquet or JSON. Subsets and
splits are always named, never globbed: MMEB's repositories hold stale files and folders of other
sets beside those that count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import datasets

from unime.data.shards import Shards, check_columns, read_json, read_parquet
from unime.data.split_files import split_files
from unime.errors import DataError

ADDRESS = re.compile(r"[A-Za-z][\w+.-]+://")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass
class ImageFolder:
    """Finds images by the relative paths of the rows, and nothing outside its folders."""

    roots: list[Path]  # tried in order

    def find(self, path: str) -> str:
        """The absolute path of an image.

        Args:
            path: relative to one of the folders, or absolute and inside of it.

        Raises:
            DataError: the path names no file, is an address, leaves the folders, or there is no
                such file.
        """
        return self._find(path, os.path.isfile, "image")

    def find_folder(self, path: str) -> str:
        """The absolute path of a folder, that of a video's frames.

        Raises:
            DataError: as for an image.
        """
        return self._find(path, os.path.isdir, "folder")

    def _find(self, path: str, exists: Callable[[str], bool], kind: str) -> str:
        if not self.roots:
            raise DataError("has an image, but data.image_root, where the images are, is not set")
        if ADDRESS.match(path):
            raise DataError(f"is an address; none is fetched, a path to the {kind} is expected")
        pure = PurePosixPath(path.replace("\\", "/"))
        if not pure.parts:
            raise DataError("names no file")
        within = [(root, _within(root, path)) for root in self.roots]
        if ".." in pure.parts or not any(below is not None for _, below in within):
            raise DataError("leaves the image folder")
        for root, below in within:
            if below is not None and exists(found := os.path.join(root, below)):
                return found
        if PureWindowsPath(path).is_absolute():
            raise DataError("leaves the image folder")
        raise DataError(f"no such {kind} in {' or '.join(map(str, self.roots))}")


def _within(root: Path, path: str) -> str | None:
    """The path relative to a folder, in which an absolute one may lie; None: it does not."""
    if not os.path.isabs(path):
        return path
    bases = [base for base in (root, root.resolve()) if Path(path).is_relative_to(base)]
    return os.path.relpath(path, bases[0]) if bases else None


@dataclass
class Table:
    """The rows of one subset, memory-mapped, and where each of them comes from."""

    rows: datasets.Dataset
    shards: Shards  # or the hub's name instead of a file

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
        read = read_parquet if files[0].suffix == ".parquet" else read_json
        return Table(*read(files, required, optional))
    table = _load_hub(root, subset, split, revision)
    found = table.rows.column_names
    check_columns(table.shards[0][0], found, required)
    wanted = [column for column in (*required, *optional) if column in found]
    return Table(table.rows.select_columns(wanted), table.shards)


def _load_hub(root: str, subset: str | None, split: str, revision: str | None) -> Table:
    if not HUB_NAME.fullmatch(root):
        raise DataError(f"data.root: no folder {root!r}")
    try:
        rows = datasets.load_dataset(root, subset, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"data.root: no folder {root!r}, and as a hub dataset: {reason}") from None
    name = " ".join(part for part in (root, subset, split) if part)
    return Table(rows, [(name, len(rows))])


def plain_rows(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    for batch in rows.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
