"""Tables: CSV, TSV, JSON, JSONL, Parquet; one, or all in a folder.

pets.csv      image,caption                          pets.jsonl  {"image": ["1.jpg", "2.jpg"],
              cats/1.jpg,A cat on a mat.                          "captions": ["A cat.", "One."]}
asked.tsv     query <tab> positive <tab> negative    vqa.parquet image (bytes), question, answer

What each column is, by its name or as `columns` says: :mod:`data_prep.own.readers.columns`. In CSV
a list is written as in JSON: ["A cat.", "One."].
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.own.readers.base import BadRow, SourceRow, check_named
from data_prep.own.readers.columns import Columns, first_values, first_values_of_table
from data_prep.own.readers.folder import SUFFIXES as PICTURES
from data_prep.own.readers.rows import JSON
from unime.config import OwnDataConfig
from unime.data.json_files import json_rows
from unime.data.rows import Row, quoted
from unime.data.shards import parquet_rows
from unime.errors import DataError
from unime.runtime.files import regular

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".jsonl", ".json", ".parquet")
LONGEST = 1 << 24  # characters of a line or cell
AT_ONCE = 64  # rows of Parquet, which may hold pictures
Cells = dict[str, Any] | DataError  # of a row; or why it is none
Placed = tuple[int | None, Cells]  # with the line that a row begins on, in files of lines


class Tables:
    """Rows of tables, by their columns."""

    @classmethod
    def recognises(cls, path: Path) -> str | None:
        found = tables_at(path)
        if not found:
            return None
        several = len(found) > 1
        return f"{len(found)} table{'s' * several} ({found[0].name}{', …' * several})"

    def __init__(self, path: Path, config: OwnDataConfig) -> None:
        self.files = tables_at(path)
        if not self.files:
            raise DataError(f"{path}: no table ({', '.join(SUFFIXES)})")
        self.folder = (path if path.is_dir() else path.parent).absolute()
        self.image_root = str(Path(config.image_root or self.folder).absolute())
        heads = [_first_values(file) for file in self.files]
        check_named(config.columns, heads, f"no table in {path}")
        self.columns = [
            self._columns(file, values, config)
            for file, values in zip(self.files, heads, strict=True)
        ]
        self.recognised = list(
            dict.fromkeys(
                f"{file.absolute().relative_to(self.folder)}: {own.in_words()}"
                for file, own in zip(self.files, self.columns, strict=True)
            )
        )

    def _columns(self, file: Path, values: dict[str, list[Any]], config: OwnDataConfig) -> Columns:
        below = file.parent.absolute().relative_to(self.folder).as_posix()
        return Columns.of(str(file), values, config.columns, "" if below == "." else below)

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file, columns in zip(self.files, self.columns, strict=True):
            name = file.absolute().relative_to(self.folder).as_posix()
            for number, (line, cells) in enumerate(read(file)):
                where = f"{file}, row {number}" + (f" (line {line})" if line else "")
                try:
                    if isinstance(cells, DataError):
                        raise cells
                    yield columns.read(Row(cells, where), f"{name}:{number}")
                except DataError as error:
                    yield BadRow.of(where, error)


def _first_values(file: Path) -> dict[str, list[Any]]:
    """Of every column; each row of JSON has columns of its own, so that all are looked at."""

    def rows(columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        return (cells for _, cells in read(file, columns) if isinstance(cells, dict))

    of_json = file.suffix.lower() in JSON
    found = first_values(rows(None)) if of_json else first_values_of_table(rows)
    if not found:
        raise DataError(f"{file}: no row of columns")
    return found


def tables_at(path: Path) -> list[Path]:
    """The table, or all those in a folder that are no picture's sidecar, in order."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in SUFFIXES and path.is_file() else []
    found = []
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        pictures = {Path(n).stem for n in names if Path(n).suffix.lower() in PICTURES}
        found += [
            Path(folder, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in SUFFIXES
            and not name.startswith(".")
            and Path(name).stem not in pictures
        ]
    return found


def read(file: Path, columns: Sequence[str] | None = None) -> Iterator[Placed]:
    """The rows of a table.

    Args:
        columns: those that are wanted of Parquet; None: all.

    Raises:
        DataError: it cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        if suffix in SEPARATORS:
            yield from _csv_rows(file, SEPARATORS[suffix])
        elif suffix == ".jsonl":
            yield from json_lines(file)
        elif suffix == ".json":
            yield from ((None, cells) for cells in json_rows(file))
        else:
            yield from ((None, cells) for cells in _parquet_rows(file, columns))
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        is_coded = isinstance(error, UnicodeError)
        helps = "; save it as UTF-8, it is written otherwise" if is_coded else ""
        raise DataError(f"{file}: cannot read it: {error}{helps}") from None


def _csv_rows(file: Path, separator: str) -> Iterator[Placed]:
    csv.field_size_limit(LONGEST)
    with regular(file).open(encoding="utf-8-sig", newline="") as opened:
        header = opened.readline()
        opened.seek(0)
        if separator not in header:  # spreadsheets of many countries write ";" into a .csv
            separator = next((other for other in ";\t|" if other in header), separator)
        rows = csv.reader(opened, delimiter=separator, strict=True)
        names = next(rows, [])
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{file}: column {twice!r} comes twice")
        line = rows.line_num + 1
        for cells in rows:
            if len(cells) == len(names):
                yield line, {n: _listed(cell) for n, cell in zip(names, cells, strict=True)}
            elif cells:
                message = f"{len(cells)} cells, expected {len(names)}: {quoted(cells)}"
                yield line, DataError(message)
            line = rows.line_num + 1


def _listed(cell: str) -> Any:
    """A cell that is written as a list of texts or items is one."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        if all(isinstance(entry, str | dict | list) for entry in found):
            return found
    return cell


def json_lines(file: Path) -> Iterator[Placed]:
    """The objects of a file that has one a line; of a line that is none, why."""
    with regular(file).open("rb") as opened:
        for number, line in enumerate(iter(partial(opened.readline, LONGEST), b""), 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, DataError(f"cannot read it: {error}: {quoted(line[:60])}")
                continue
            if not isinstance(found, dict):
                yield number, DataError(f"got {quoted(found)}, expected an object")
            else:
                yield number, found


def _parquet_rows(file: Path, columns: Sequence[str] | None) -> Iterator[Cells]:
    schema = pq.read_schema(regular(file))
    labels = _label_names(schema.metadata or {})
    for batch in parquet_rows([file], (), tuple(columns or schema.names)).to_batches(AT_ONCE):
        for row in batch.to_pylist():
            for name, names in labels.items():
                if isinstance(row.get(name), int) and 0 <= row[name] < len(names):
                    row[name] = names[row[name]]
            yield row


def _label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Of columns with numbers for labels, as `datasets` writes them: the labels."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
