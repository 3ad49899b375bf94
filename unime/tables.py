"""Tables of rows and folders of images, below a local folder or on the hub.

A local folder is laid out as a hub repository (unime/split_files.py): as Parquet or JSON. Subsets
and splits are always named, never globbed: MMEB's repositories hold stale files and folders of
other sets beside those that count.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from unime.items import DataError
from unime.split_files import split_files

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
    shards: list[tuple[str, int]]  # file or hub name, number of rows

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
    """
    Args:
        subset: the hub's configuration; None: the only one. A local folder's are those that its
            README.md declares, or its folders.
    """
    if Path(root).is_dir():
        if revision is not None:
            raise DataError(
                f"data.revision: {revision!r} is for a hub repository, {root} is a folder"
            )
        table = _load_local(Path(root), subset, split, (*required, *optional))
    else:
        table = _load_hub(root, subset, split, revision)
    found = table.rows.column_names
    missing = [column for column in required if column not in found]
    if missing:
        name = table.shards[0][0]
        raise DataError(f"{name}: no column {quoted(missing)}; it has {quoted(found)}")
    wanted = [column for column in (*required, *optional) if column in found]
    return Table(table.rows.select_columns(wanted), table.shards)


def _load_local(root: Path, subset: str | None, split: str, wanted: tuple[str, ...]) -> Table:
    files = split_files(root, subset, split)
    if files[0].suffix == ".parquet":
        return _load_parquet([str(file) for file in files])
    parts = [_read_json(file) for file in files]
    content = [row for part in parts for row in part]
    keys = dict.fromkeys(key for row in content for key in row)
    # what is not asked for need not be alike from row to row
    columns = {key: [row.get(key) if key in wanted else None for row in content] for key in keys}
    try:
        rows = datasets.Dataset.from_dict(columns)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{files[0]}: its rows are not alike: {error}") from None
    return Table(rows, [(str(f), len(part)) for f, part in zip(files, parts, strict=True)])


def _read_json(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that is one list, or has an object a line (as on the hub, whatever it is
    called).

    Raises:
        DataError: unreadable, not JSON, no rows, or a row that is no object.
    """
    place = str(file)
    try:
        text = file.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = []
            for number, line in enumerate(text.split("\n"), 1):
                place = f"{file}, line {number}"
                rows += [json.loads(line)] if line.strip() else []
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: cannot read it: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected objects, one for each row")
    if not rows:
        raise DataError(f"{file}: no rows")
    return rows


def _load_parquet(files: list[str]) -> Table:
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        counts = [pq.read_metadata(file).num_rows for file in files]
        if not any(counts):
            raise DataError(f"{files[0]}: no rows")
        rows = datasets.Dataset.from_parquet([glob.escape(file) for file in files])
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{files[0]}: cannot read it: {error.__cause__ or error}") from None
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return Table(rows, list(zip(files, counts, strict=True)))


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
