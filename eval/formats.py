"""The formats in which tasks come: what a suite's ``format`` names, and the settings that it takes.

A format is a dataclass: its fields are what a task's entry in a suite may set, its `read` makes the
task of it. Adding one is a class and a line here.
"""

from __future__ import annotations

from typing import Protocol

from eval.beir import Beir
from eval.mmeb_v1 import MmebRows
from eval.sources import Source
from eval.task import EvalTask


class Format(Protocol):
    def read(self, name: str, source: Source) -> EvalTask:
        """Read the task `name`.

        Raises:
            DataError: data that cannot be used; names file, row, column and value.
        """


FORMATS: dict[str, type] = {
    "mmeb": MmebRows,
    "beir": Beir,
}
