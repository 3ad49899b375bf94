"""The rows of a table that lies in several local files, Parquet or JSON, as one.

Only the wanted columns are read. The order of the files does not decide their types: a column may
be empty (Parquet's type null) in any of them, an optional one missing, and a file without rows
counts for nothing.
"""

from __future__ import annotations

import glob
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from unime.errors import DataError
from unime.inputs.items import whole_characters

Shards = list[tuple[str, int]]  # file, number of rows


def check_columns(name: str, found: Sequence[str], required: Sequence[str]) -> None:
    """Check that all required columns are there.

    Raises:
        DataError: one is missing.
    """
    missing = [column for column in required if column not in found]
    if missing:
        lacking, there = (", ".join(map(repr, names)) for names in (missing, found))
        raise DataError(f"{name}: no column {lacking}; it has {there}")


# Parquet -----------------------------------------------------------------------------------------


def read_parquet(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[datasets.Dataset, Shards]:
    """These columns of all files together, and how many rows each file has.

    Raises:
        DataError: unreadable, no rows at all, a missing column, or one that is something else in
            another file; names the file.
    """
    counts, schemas = {}, {}
    for file in files:
        with _naming(file):
            metadata = pq.read_metadata(file)
            counts[file] = metadata.num_rows
            if metadata.num_rows:
                schemas[file] = metadata.schema.to_arrow_schema()
    if not schemas:
        raise DataError(f"{files[0]}: no rows")
    for file, schema in schemas.items():
        check_columns(str(file), schema.names, required)
    types = {column: _common_type(column, schemas) for column in (*required, *optional)}
    with _without_bars():
        parts = [_read_shard(file, schema, types) for file, schema in schemas.items()]
        # where a part has no such column its rows get None
        rows = datasets.concatenate_datasets(parts)
    return rows, [(str(file), count) for file, count in counts.items()]


def _common_type(column: str, schemas: dict[Path, pa.Schema]) -> pa.DataType | None:
    """What holds every file's values of a column; None: no file has it."""
    common: pa.Schema | None = None
    first = None
    for file, schema in schemas.items():
        if column not in schema.names:
            continue
        own = pa.schema([(column, schema.field(column).type)])
        try:
            parts = [own] if common is None else [common, own]
            common = pa.unify_schemas(parts, promote_options="permissive")
        except pa.ArrowException:
            here, there = own.types[0], common.types[0] if common else None
            raise DataError(
                f"{file}, column {column!r}: its type is {here}, in {first} it is {there}"
            ) from None
        first = first or file
    return None if common is None else common.types[0]


def _read_shard(
    file: Path, schema: pa.Schema, types: dict[str, pa.DataType | None]
) -> datasets.Dataset:
    fields = [(column, kind) for column, kind in types.items() if column in schema.names]
    with _naming(file):
        features = datasets.Features.from_arrow_schema(pa.schema(fields))  # pictures stay bytes
        first_group = pq.read_metadata(file).row_group(0).num_rows
        rows = datasets.Dataset.from_parquet(
            glob.escape(str(file)),
            columns=list(features),
            features=features,
            batch_size=first_group or 1,  # a group may be empty
        )
    before = 0
    for batch in rows.data.to_batches():
        check_texts(batch, file, before)
        before += len(batch)
    return rows


def check_texts(batch: pa.RecordBatch, file: Path, before: int) -> None:
    """Check that all texts of a batch are UTF-8.

    Args:
        before: rows of the file that come before these.

    Raises:
        DataError: a text that is no UTF-8.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row = next((n for n in range(len(column)) if not _is_readable(column[n])), 0)
            place = f"{file}, row {before + row}, column {name!r}"
            raise DataError(f"{place}: no UTF-8 text: {error}") from None


def _is_readable(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{file}: cannot read it: {error.__cause__ or error}") from None


@contextmanager
def _without_bars() -> Iterator[None]:
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not quiet:
            datasets.enable_progress_bars()


# JSON --------------------------------------------------------------------------------------------


def read_json(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[datasets.Dataset, Shards]:
    """These columns of all files together, and how many rows each file has.

    Raises:
        DataError: unreadable, no rows at all, a missing column, or a value unlike those of the
            rows before it; names file, row, column and value.
    """
    parts = [_json_rows(file) for file in files]
    content = [row for part in parts for row in part]
    if not content:
        raise DataError(f"{files[0]}: no rows")
    places = [f"{file}, row {n}" for file, part in zip(files, parts, strict=True)
              for n in range(len(part))]  # fmt: skip
    keys = list(dict.fromkeys(key for row in content for key in row))
    check_columns(str(files[0]), keys, required)
    columns = {
        column: _column(column, [row.get(column) for row in content], places)
        for column in (*required, *optional)
        if column in keys
    }
    rows = datasets.Dataset(pa.table(columns))
    return rows, [(str(file), len(part)) for file, part in zip(files, parts, strict=True)]


def _column(name: str, values: list[Any], places: list[str]) -> pa.Array:
    def fails(count: int) -> bool:
        try:
            pa.array(values[:count])
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            return True
        return False

    if fails(len(values)):
        row = bisect_left(range(len(values) + 1), True, key=fails) - 1
        first = next((n for n in range(row) if values[n] is not None), None)
        unlike = "" if first is None else f", unlike {values[first]!r} in {places[first]}"
        raise DataError(f"{places[row]}, column {name!r}: got {values[row]!r}{unlike}")
    return pa.array(values)


def _json_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that is one list, or has an object a line (as on the hub, whatever it is
    called).

    Raises:
        DataError: unreadable, not JSON, or a row that is no object.
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
    return [whole_characters(row) for row in rows]
