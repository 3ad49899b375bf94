"""What is wrong with a row: which kind of fault, where, and whether training leaves the row out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unime.data.rows import Row
from unime.errors import DataError

SCHEMA = "schema"  # what has no kind of its own: a cell or table of another form


@dataclass(frozen=True)
class Fault:
    """One fault of one row.

    Attributes:
        number: of the row in its table; -1: it is about all of the table.
        where: file and row.
        message: with `where`, as an error has it.
        rejected: whether training leaves the row out; else it is a remark.
    """

    number: int
    where: str
    row_id: str
    kind: str
    column: str
    message: str
    rejected: bool = True

    @classmethod
    def of(cls, number: int, row: Row, row_id: str, error: DataError) -> Fault:
        """By the error of whoever read the row."""
        columns = ", ".join(error.columns)
        return cls(number, row.where, row_id, error.kind or SCHEMA, columns, str(error))

    @property
    def reason(self) -> str:
        return self.message.removeprefix(self.where).lstrip(",: ")

    def written(self, task: str) -> dict[str, Any]:
        """As a row of the table of faults."""
        return {
            "task": task,
            "where": self.where,
            "row_id": self.row_id,
            "column": self.column,
            "kind": self.kind,
            "reason": self.reason,
            "rejected": self.rejected,
        }
