"""What readers share: rows of JSON files and tables by number, and pictures that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.own.readers.base import BadRow, SourceRow
from unime.config import OwnDataConfig
from unime.data.json_files import json_rows
from unime.data.rows import Row
from unime.data.shards import parquet_rows
from unime.data.tables import image_folder
from unime.errors import DataError
from unime.runtime.files import regular

JSON, PARQUET = (".jsonl", ".json"), ".parquet"
AT_ONCE = 500  # rows of a table in memory, whose pictures may lie in it


class Pictures:
    """Finds the pictures of a reader's rows, and nothing outside of their folder.

    Args:
        folder: where they lie if the settings do not say it.
    """

    def __init__(self, folder: Path, settings: OwnDataConfig) -> None:
        self.root = os.path.abspath(settings.image_root or folder)
        self._folder = image_folder(str(folder), self.root, [], settings.follow_links)

    def find(self, row: Row, column: str) -> str:
        """The path in a cell, relative to the folder.

        Raises:
            DataError: there is no such picture; names file, row and column.
        """
        return row.image(column, self.find_path)

    def find_path(self, path: str) -> str:
        """The same of a path.

        Raises:
            DataError: there is no such picture.
        """
        return os.path.relpath(self._folder.find(path), self.root)


def read_each(
    file: Path, name: str, read: Callable[[Row, str], SourceRow]
) -> Iterator[SourceRow | BadRow]:
    """What a function reads of each row of a JSON or Parquet file, or why it cannot.

    Args:
        name: of the file, in ids of rows.
        read: is given the row and its id.

    Raises:
        DataError: a file that cannot be read.
    """
    for number, values in enumerate(_values(file)):
        row = Row(values, f"{file}, row {number}")
        try:
            yield read(row, f"{name}:{number}")
        except DataError as error:
            yield BadRow.of(row.where, error)


def _values(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix in JSON:
        yield from json_rows(file)
        return
    for batch in parquet_rows([file], tuple(column_names(file))).to_batches(AT_ONCE):
        yield from batch.to_pylist()


def column_names(file: Path) -> list[str]:
    """Those of a Parquet file.

    Raises:
        DataError: it is none.
    """
    try:
        return list(pq.read_schema(regular(file)).names)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot read it: {' '.join(str(error).split())}") from None


def first_row(file: Path) -> dict[str, Any]:
    """The first row of a file; none: it has none, or cannot be read."""
    if not file.is_file() or file.suffix not in (*JSON, PARQUET):
        return {}
    try:
        return next(_values(file), {})
    except DataError:
        return {}


def json_files(path: Path) -> list[Path]:
    """A JSON file, or all of them in a folder, by name."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix in JSON and not file.name.startswith(".")]


def without_tags(text: str, tag: str) -> str:
    """A text without tags of pictures and the white space around them, of which one break or space
    stays inside."""
    pattern = re.compile(rf"\s*{re.escape(tag)}\s*")
    return pattern.sub(lambda found: "\n" if "\n" in found[0] else " ", text).strip()


def by_columns(row: Row, column: str) -> Row:
    """The keys of an object in a cell as columns of their own, ``anchor.text``.

    Raises:
        DataError: it is no object.
    """
    value = row[column]
    if not isinstance(value, dict):
        raise row.expected("an object", column)
    return Row({f"{column}.{key}": entry for key, entry in value.items()}, row.where)


def check_label(row: Row, *columns: str) -> None:
    """Refuse a row whose label says that it is no pair, or how alike its sides are.

    Raises:
        DataError: a label that is not 1.
    """
    for column in columns:
        if row.values.get(column) not in (None, 1):
            raise row.expected("1, as of a right answer", column)
