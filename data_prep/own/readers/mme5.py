r"""mmE5's MMEB with mined negatives (intfloat/mmE5-MMEB-hardneg on the hub): MMEB-train's columns,
a folder a subset, whose negatives are texts that stand for lists of Python's.

As its trainer reads them (haon-chen/mmE5, src/dataset.py)::

    qry             "<|image_1|>\nRepresent the given image with the following question: …?\n"
    qry_image_path  "images/A-OKVQA/Train/A-OKVQA_image_3179.jpg"
    pos_text        "parking/standing"
    pos_image_path  ""
    neg_text        "['prevent parking', 'parked']"
    neg_image_path  "['', '']"

The trainer gives a negative without a text the target's (of pictures that is "Represent the given
image."), and so it is here, beside a picture; with neither it would be the right answer, and is
left out. The lists are read as literals: the trainer calls `eval` on them.
"""

from __future__ import annotations

import ast
from typing import Any, ClassVar

from data_prep.own.readers.base import SourceRow
from data_prep.own.readers.mmeb_train import MmebTrain
from unime.data.mmeb_rows import NEGATIVE_COLUMNS, TRAIN_COLUMNS
from unime.data.rows import Row

LONGEST = 1 << 20  # characters of a list
TEXT, PATH = NEGATIVE_COLUMNS


class Mme5(MmebTrain):
    """A folder with subsets, one of them, or a file of one."""

    form: ClassVar[str] = "mmE5"

    @classmethod
    def takes(cls, row: dict[str, object]) -> bool:
        """Whether a row is of this form."""
        lists = [_literal(row.get(column)) for column in NEGATIVE_COLUMNS]
        return {*TRAIN_COLUMNS} <= row.keys() and all(isinstance(one, list) for one in lists)

    def _read(self, task: str, row: Row, row_id: str) -> SourceRow:
        lists = {column: _literal(row[column]) for column in NEGATIVE_COLUMNS}
        for column, found in lists.items():
            if not isinstance(found, list):
                raise row.expected("a list, written as in Python", column)
        target = row.text_or_none("pos_text")
        pairs = Row(lists, row.where).entries(TEXT, PATH)
        sides = [[*pair.values.values()] for pair in pairs]
        lists[TEXT] = [target if path and text == "" else text for text, path in sides]
        return super()._read(task, Row({**row.values, **lists}, row.where), row_id)


def _literal(value: object) -> Any:
    """What a text stands for in Python, of literals alone; None: nothing."""
    if not isinstance(value, str) or len(value) > LONGEST:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
