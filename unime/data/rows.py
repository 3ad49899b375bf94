"""A row of data: whoever reads a cell that is not as it should be is told file, row, column and
value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

from unime.errors import DataError

SHOWN = 300  # characters of a value that an error quotes
LISTED = 50  # columns that an error lists


@dataclass(slots=True)
class Row:
    """A row's cells. What reads them raises DataError, which says where the cell is.

    Attributes:
        values: by column, as they are.
        where: file and row.
    """

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, column: str) -> Any:
        """The value as it is, in a column that has to be there."""
        if column not in self.values:
            check_columns(self.where, self.values, [column])
        return self.values[column]

    def text(self, column: str) -> str:
        """A text that is not blank."""
        value = self[column]
        if not isinstance(value, str) or not value.strip():
            raise self.expected("a text", column)
        return value

    def text_or_none(self, column: str) -> str:
        """A text of any kind, "" for None."""
        value = self[column]
        if not isinstance(value, str | None):
            raise self.expected("a text", column)
        return value or ""

    def name_or_none(self, column: str) -> str:
        """A text, or a whole number as one; "" for None and for a blank text."""
        value = self[column]
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise self.expected("a text or a whole number", column)
        name = "" if value is None else str(value)
        return name if name.strip() else ""

    def texts(self, column: str, first: int | None = None) -> list[str]:
        """The texts of a list, none of them blank and at least one, or only its first ones."""
        entries = self.entries(column)[:first]
        if not entries:
            raise self.expected("a list of texts", column)
        return [entry.text(place) for entry in entries for place in entry.values]

    def entries(self, *columns: str) -> list[Row]:
        """Lists of one length side by side: a row of each place, whose columns are called after
        it (``text[0]``)."""
        for column in columns:
            if not isinstance(self[column], list):
                raise self.expected("a list", column)
        sizes = [len(self[column]) for column in columns]
        if len(set(sizes)) > 1:
            found = " and ".join(map(str, sizes))
            raise self.error(f"{found} entries, expected equally many", *columns)
        sides = zip(*(self[column] for column in columns), strict=True)
        return [
            Row({f"{name}[{n}]": side[k] for k, name in enumerate(columns)}, self.where)
            for n, side in enumerate(sides)
        ]

    def image(self, column: str, find: Callable[[str], str]) -> str:
        """The absolute path of a picture, by the one in the cell."""
        path = self.text(column)
        with self.naming(column):
            return find(path)

    def expected(self, what: str, column: str) -> DataError:
        """That a value is not what was expected."""
        return self.error(f"got {quoted(self[column])}, expected {what}", column)

    def error(self, problem: str, *columns: str, kind: str = "") -> DataError:
        """A problem of these cells, or of the row."""
        names = " and ".join(map(repr, columns))
        cells = f", column{'s' * (len(columns) > 1)} {names}" if columns else ""
        return DataError(f"{self.where}{cells}: {problem}", kind, columns)

    @contextmanager
    def naming(self, column: str) -> Iterator[None]:
        """Errors from what is done with a cell's value name the cell."""
        try:
            yield
        except DataError as error:
            raise self.error(str(error), column, kind=error.kind) from None


def is_number(value: object) -> bool:
    """Whether a value of the data is a finite one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def check_columns(where: str, found: Collection[str], required: Collection[str]) -> None:
    """Refuse a row, or a table, that lacks a column.

    Raises:
        DataError: one is missing.
    """
    missing = [column for column in required if column not in found]
    if missing:
        lacking, there = (", ".join(map(quoted, names)) for names in (missing, [*found][:LISTED]))
        more = ", …" if len(found) > LISTED else ""
        raise DataError(f"{where}: no column {lacking}; it has {there or 'none'}{more}")


def quoted(value: object) -> str:
    """A value of the data as an error shows it, cut where it is long."""
    try:
        shown = repr(value)
    except RecursionError:
        return "a value of too many levels"
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]} …"
