"""Rows and items of JSON files, read one by one: of a list as of lines only one is in memory."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from unime.data.rows import Row, check_columns, quoted
from unime.data.shards import Shards, place_of
from unime.errors import DataError
from unime.inputs.items import whole_characters
from unime.runtime.files import regular

CHUNK = 1 << 20  # characters read at a time
LONGEST = 1 << 24  # characters of one item; more is no item but a broken file
BEGIN, BETWEEN = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*")  # before an item
NAMED = 100  # keys of rows that an error lists


def read_json_rows(
    files: list[Path], required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[pa.Table, Shards]:
    """These columns of all files together, and how many rows each file has.

    Raises:
        DataError: unreadable, a missing column, or a value unlike those of the rows before it;
            names file, row, column and value.
    """
    shards: Shards = []
    rows: list[dict[str, Any]] = []
    keys: dict[str, None] = {}  # that rows have, some of them: each may have others
    for file in files:
        before = len(rows)
        for row in json_rows(file):
            rows.append({column: row[column] for column in (*required, *optional) if column in row})
            keys.update(dict.fromkeys(rows[-1]))
            if len(keys) < NAMED:
                keys.update(dict.fromkeys(row))
        shards.append((str(file), len(rows) - before))
    if rows:
        check_columns(str(files[0]), keys, required)
    columns = {
        column: _column(column, [row.get(column) for row in rows], shards)
        for column in (*required, *optional)
        if column in keys
    }
    return pa.table(columns), shards


def _column(name: str, values: list[Any], shards: Shards) -> pa.Array:
    def fails(count: int) -> bool:
        try:
            pa.array(values[:count])
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            return True
        return False

    if fails(len(values)):
        row = bisect_left(range(len(values) + 1), True, key=fails) - 1
        first = next((n for n in range(row) if values[n] is not None), None)
        unlike = ""
        if first is not None:
            unlike = f", unlike {quoted(values[first])} in {place_of(shards, first)}"
        raise Row({}, place_of(shards, row)).error(f"got {quoted(values[row])}{unlike}", name)
    return pa.array(values)


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that is one list, or has an object a line (as on the hub, whatever it is
    called), one by one. Half a character (a lone surrogate) is a question mark.

    Raises:
        DataError: unreadable, not JSON, or a row that is no object.
    """
    for place, row in _values(file):
        if not isinstance(row, dict):
            raise DataError(f"{place}: got {quoted(row)}, expected an object")
        with _reading(place):
            whole = whole_characters(row)
        yield whole


def _values(file: Path) -> Iterator[tuple[str, Any]]:
    if _is_list(file):
        yield from ((str(file), item) for item in json_items(file))
        return
    with _reading(file), _opened(file) as lines:
        for number, line in enumerate(iter(partial(lines.readline, LONGEST), ""), 1):
            if len(line) == LONGEST:
                raise DataError(f"{file}, line {number}: cannot read it: {LONGEST} characters")
            if line.strip():
                with _reading(f"{file}, line {number}"):
                    value = json.loads(line)
                yield f"{file}, line {number}", value


def _is_list(file: Path) -> bool:
    with _reading(file), _opened(file) as opened:
        begins = (piece.lstrip() for piece in iter(partial(opened.read, CHUNK), ""))
        return next(filter(None, begins), "").startswith("[")


def json_items(file: Path) -> Iterator[Any]:
    """The items of a JSON list, none of them a number, one after another, for files too large to be
    read at once: ShareGPT4V's has 1.2 million, in 1.5 GB.

    Raises:
        DataError: unreadable, no list, or broken before the next item.
    """
    decoder, buffer, before = json.JSONDecoder(), "", BEGIN
    with _reading(file), _opened(file) as opened:
        while chunk := opened.read(CHUNK):
            buffer += chunk
            if before is BEGIN and buffer.strip() and not BEGIN.match(buffer):
                raise DataError(f"{file}: no JSON list")
            place = 0
            with suppress(json.JSONDecodeError):  # the rest of an item is in the next chunk
                while found := before.match(buffer, place):
                    item, end = decoder.raw_decode(buffer, found.end())
                    yield item
                    place, before = end, BETWEEN
            buffer = buffer[place:]
            if len(buffer) > LONGEST:
                break
    if "".join(buffer.split()) != ("[]" if before is BEGIN else "]"):
        found = before.match(buffer)
        place = found.end() if found else 0
        raise DataError(f"{file}: broken JSON at {buffer[place : place + 60].strip()!r}")


def _opened(file: Path) -> TextIO:
    return regular(file).open(encoding="utf-8-sig")  # editors put a mark first


@contextmanager
def _reading(place: str | Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: cannot read it: {error}") from None
