"""The rows of a table that lies in several local files, Parquet or JSON, as one.

Only the wanted columns are read. The order of the files does not decide their types: a column may
be empty (Parquet's type null) in any of them, an optional one missing, and a file without rows
counts for nothing.
"""

from __future__ import annotations

import glob
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from unime.data.rows import Row, check_columns
from unime.errors import DataError
from unime.inputs.items import whole_characters

Shards = list[tuple[str, int]]  # file, number of rows


# Parquet -----------------------------------------------------------------------------------------


def read_parquet_rows(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[datasets.Dataset, Shards]:
    """These columns of all files together, and how many rows each file has.

    Raises:
        DataError: unreadable, no rows at all, a missing column, or one that is something else in
            another file; names the file.
    """
    shards, schemas = [], {}
    for file in files:
        with _naming(file):
            metadata = pq.read_metadata(file)
            shards.append((str(file), metadata.num_rows))
            if metadata.num_rows:
                schemas[file] = metadata.schema.to_arrow_schema()
    if not schemas:
        raise DataError(f"{files[0]}: no rows")
    for file, schema in schemas.items():
        check_columns(str(file), schema.names, required)
    types = _common_types((*required, *optional), schemas)
    with _without_bars():
        parts = [_read_shard(file, schema, types) for file, schema in schemas.items()]
        # where a part has no such column its rows get None
        rows = datasets.concatenate_datasets(parts)
    return rows, shards


def _common_types(
    columns: tuple[str, ...], schemas: dict[Path, pa.Schema]
) -> dict[str, pa.DataType]:
    """What holds every file's values of each column that there is."""
    common = pa.schema([])
    for file, schema in schemas.items():
        own = [(name, schema.field(name).type) for name in columns if name in schema.names]
        try:
            common = pa.unify_schemas([common, pa.schema(own)], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"{file}, unlike those before it: {error}") from None
    return dict(zip(common.names, common.types, strict=True))


def _read_shard(file: Path, schema: pa.Schema, types: dict[str, pa.DataType]) -> datasets.Dataset:
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
    for _ in readable(rows.data.to_batches(), file):
        pass
    return rows


def readable(batches: Iterable[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file, whose texts all have to be UTF-8.

    Raises:
        DataError: one is not.
    """
    before = 0
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                row = next((n for n in range(len(column)) if not _is_readable(column[n])), 0)
                where = f"{file}, row {before + row}"
                raise Row({}, where).error(f"no UTF-8 text: {error}", name) from None
        yield batch
        before += len(batch)


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


def read_json_rows(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[datasets.Dataset, Shards]:
    """These columns of all files together, and how many rows each file has.

    Raises:
        DataError: unreadable, no rows at all, a missing column, or a value unlike those of the
            rows before it; names file, row, column and value.
    """
    parts = [list(json_rows(file)) for file in files]
    content = [row for part in parts for row in part]
    if not content:
        raise DataError(f"{files[0]}: no rows")
    shards = [(str(file), len(part)) for file, part in zip(files, parts, strict=True)]
    places = [f"{file}, row {number}" for file, count in shards for number in range(count)]
    keys = list(dict.fromkeys(key for row in content for key in row))
    check_columns(str(files[0]), keys, required)
    columns = {
        column: _column(column, [row.get(column) for row in content], places)
        for column in (*required, *optional)
        if column in keys
    }
    return datasets.Dataset(pa.table(columns)), shards


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
        raise Row({}, places[row]).error(f"got {values[row]!r}{unlike}", name)
    return pa.array(values)


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that is one list, or has an object a line (as on the hub, whatever it is
    called), one by one. Half a character (a lone surrogate) is a question mark.

    Raises:
        DataError: unreadable, not JSON, or a row that is no object.
    """
    for place, row in _json_values(file):
        if not isinstance(row, dict):
            raise DataError(f"{place}: got {row!r}, expected an object")
        yield whole_characters(row)


def _json_values(file: Path) -> Iterator[tuple[str, Any]]:
    place = str(file)
    try:
        with file.open(encoding="utf-8") as lines:
            first = next((line.lstrip() for line in lines if line.strip()), "")
            lines.seek(0)
            if first.startswith("["):
                yield from ((place, row) for row in json.load(lines))
                return
            for number, line in enumerate(lines, 1):
                place = f"{file}, line {number}"
                if line.strip():
                    yield place, json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: cannot read it: {error}") from None
