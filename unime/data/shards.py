"""The rows of a table that lies in several Parquet files, as one (JSON: json_files.py).

Only the wanted columns are read. The order of the files does not decide their types: a column may
be empty (Parquet's type null) in any of them, an optional one missing, and a file without rows
counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unime.data.rows import Row, check_columns
from unime.errors import DataError
from unime.runtime.files import regular

Shards = list[tuple[str, int]]  # file, or the hub's name instead, and number of rows
BUFFER = 1 << 16  # bytes of a Parquet column read at a time, else all of a group's


def place_of(shards: Shards, row: int) -> str:
    """The file, and the row in it."""
    for name, count in shards:
        if row < count:
            return f"{name}, row {row}"
        row -= count
    raise IndexError(row)


@dataclass
class ParquetRows:
    """The rows of several files, read whenever they are asked for: nothing is copied or kept.

    Attributes:
        shards: the files.
        schema: of the wanted columns that there are: what holds every file's values.
    """

    shards: Shards
    schema: pa.Schema

    def to_batches(self, max_chunksize: int) -> Iterator[pa.RecordBatch]:
        """All rows, so many at a time.

        Raises:
            DataError: a file that is damaged, or another than when it was opened, or a text that
                is no UTF-8; names file, row and column.
        """
        for name, count in self.shards:
            file, before = Path(name), 0
            for batch in self._read(file, max_chunksize) if count else ():
                _check_characters(batch, file, before)
                yield batch
                before += len(batch)
            if before != count:
                raise DataError(f"{file}: cannot read it: {before} rows, where there were {count}")

    def _read(self, file: Path, at_once: int) -> Iterator[pa.RecordBatch]:
        with _naming(file), _opened(file) as parquet:
            there = [name for name in self.schema.names if name in parquet.schema_arrow.names]
            for group in range(parquet.num_row_groups):  # of which each is let go
                for batch in parquet.iter_batches(at_once, [group], there):
                    columns = [_column(batch, field) for field in self.schema]
                    yield pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)
    column = batch.column(field.name)
    # pyarrow 26 casts a list of nothing but nulls to its own type wrongly
    return column if column.type == field.type else column.cast(field.type)


def parquet_rows(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> ParquetRows:
    """These columns of all files together.

    Raises:
        DataError: unreadable, a missing column, or one that is something else in another file;
            names the file.
    """
    shards, common = [], pa.schema([])
    for file in files:
        with _naming(file), _opened(file) as parquet:
            count, schema = parquet.metadata.num_rows, parquet.schema_arrow
            names = list(schema.names)
        shards.append((str(file), count))
        if count:
            check_columns(str(file), names, required)
            wanted = [name for name in (*required, *optional) if name in names]
            common = _common_types(file, common, [_field(file, schema, name) for name in wanted])
    return ParquetRows(shards, common)


def _opened(file: Path) -> pq.ParquetFile:
    """Not memory-mapped: a file that is cut while it is read is an error, and no SIGBUS."""
    return pq.ParquetFile(regular(file), buffer_size=BUFFER)


def _field(file: Path, schema: pa.Schema, name: str) -> pa.Field:
    if schema.names.count(name) > 1:
        raise DataError(f"{file}: column {name!r} comes twice")
    kind = schema.field(name).type
    return pa.field(name, kind.value_type if pa.types.is_dictionary(kind) else kind)


def _common_types(file: Path, before: pa.Schema, fields: list[pa.Field]) -> pa.Schema:
    try:
        return pa.unify_schemas([before, pa.schema(fields)], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{file}, unlike those before it: {_in_a_line(error)}") from None


def _check_characters(batch: pa.RecordBatch, file: Path, before: int) -> None:
    """Refuse a text that is no UTF-8, in a list too."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row = next((n for n in range(len(column)) if not _is_readable(column[n])), 0)
            where = f"{file}, row {before + row}"
            raise Row({}, where).error(f"no UTF-8 text: {_in_a_line(error)}", name) from None


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
    except DataError:
        raise
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot read it: {_in_a_line(error)}") from None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
