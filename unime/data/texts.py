"""Reads the plain texts that the teacher embeds and stage 1 learns from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unime.data.json_files import json_rows
from unime.data.rows import Row, check_columns
from unime.data.shards import parquet_rows
from unime.errors import DataError
from unime.runtime.files import regular

MAX_FIELD = 10_000_000  # characters in one field of a .csv file; Python's own limit is 131,072
AT_ONCE = 1000  # rows of a .parquet file


@dataclass
class Texts:
    """Distinct texts in the order of their first appearance, or all of them in theirs."""

    texts: list[str]
    row_ids: list[str]  # "nli.csv:17:sent0"
    num_duplicates: int


def read_texts(
    files: list[str], columns: list[str], limit: int | None = None, distinct: bool = True
) -> Texts:
    """All texts in `columns` of .jsonl, .csv and .parquet files, each distinct text once. Half a
    character (a lone surrogate) is a question mark, to teacher and student alike.

    Args:
        limit: stop after so many texts.
        distinct: False: every row's texts, in its columns' order, also those met before.

    Raises:
        DataError: a file that cannot be read, a column that is not there, a text that is missing,
            blank or not a string; the message names file, row (from 0), column and value.
    """
    found = Texts([], [], 0)
    known: set[str] = set()
    for file in files:
        for row_id, text in _texts_of(Path(file), columns):
            if distinct and text in known:
                found.num_duplicates += 1
                continue
            if len(found.texts) == limit:
                return found
            known.add(text)
            found.texts.append(text)
            found.row_ids.append(row_id)
    if not found.texts:
        raise DataError(f"{', '.join(files)}: no texts")
    return found


def _texts_of(path: Path, columns: list[str]) -> Iterator[tuple[str, str]]:
    readers: dict[str, Callable[[Path, list[str]], Iterator[dict[str, Any]]]] = {
        ".jsonl": lambda path, columns: json_rows(path),
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: texts are read from {', '.join(readers)} files")
    for number, values in enumerate(readers[path.suffix](path, columns)):
        row = Row(values, f"{path}, row {number}")
        for column in columns:
            yield f"{path.name}:{number}:{column}", row.text(column)


def _read_csv(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with regular(path).open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            names = next(reader, [])
            check_columns(str(path), names, columns)
            places = [(column, names.index(column)) for column in columns]
            for cells in filter(None, reader):
                yield {name: cells[n] if n < len(cells) else None for name, n in places}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read it: {error}") from None


def _read_parquet(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in parquet_rows([path], tuple(columns)).to_batches(AT_ONCE):
        yield from batch.to_pylist()
