"""MMEB's own formats, from a local folder or the hub: the only place that knows its column names.

The images are unpacked below the local folder (training), below it or its ``eval_images``
(evaluation), or where ``data.image_root`` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np

from unime.items import DataError, Item, Pair
from unime.progress import progress_bar
from unime.tables import ImageFolder, Table, image_folder, load_table, plain_rows, quoted

TRAIN_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
NEGATIVE_COLUMNS = ("neg_text", "neg_image_path")
EVAL_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
IMAGE_TOKEN = re.compile(r"\s*<\|image_\d+\|>\s*")


def strip_image_tokens(text: str) -> str:
    """The text without MMEB's inline ``<|image_1|>``, which only marks that there is an image.

    A token goes with the white space around it, leaving one line break if that had any, else one
    space; white space at both ends goes too, because the prompt adds its own. Line breaks inside
    stay, as they separate the instruction from the text:

    - ``"<|image_1|>\\nRepresent the given image …\\nWhat is it?\\n"`` (the canonical layout) gives
      ``"Represent the given image …\\nWhat is it?"``.
    - A token without an image (WebQA's queries) leaves a text item, an image without a token an
      item of image and text, and a text of nothing but the token an image item: the path columns
      alone say whether there is an image.
    """
    return IMAGE_TOKEN.sub(lambda found: "\n" if "\n" in found.group() else " ", text).strip()


@dataclass
class TrainSubset:
    """The selected rows of one MMEB-train subset; checked when loaded, read when asked for."""

    name: str
    table: Table
    selected: list[int]
    images: ImageFolder
    dropped: list[str] = field(default_factory=list)  # messages of the bad rows that were left out

    def __len__(self) -> int:
        return len(self.selected)

    def __getitem__(self, index: int) -> Pair:
        row = self.selected[index]
        return _pair(self.table.rows[row], self.images.find, self.table.where(row), self._id(row))

    def check(self, on_bad_row: str) -> None:
        """Read every selected row once, look for every distinct image, and keep the good rows.

        Raises:
            DataError: the first bad row (`on_bad_row` "raise"), or no good one.
        """
        find, good = cache(self.images.find), []
        chosen = self.table.rows.select(self.selected)
        bar = progress_bar(total=len(self), desc=f"checking {self.name}", unit="row")
        with bar:
            for row, values in zip(self.selected, plain_rows(chosen), strict=True):
                try:
                    _pair(values, find, self.table.where(row), self._id(row))
                    good.append(row)
                except DataError as error:
                    self.dropped.append(str(error))
                bar.update()
        if self.dropped and on_bad_row == "raise":
            raise DataError(_first_of(self.dropped) + "; data.on_bad_row=drop leaves them out")
        if not good:
            raise DataError(f"{self.name}: no good row; {_first_of(self.dropped)}")
        self.selected = good

    def _id(self, row: int) -> str:
        return f"{self.name}:{row}"


@dataclass
class EvalTask:
    """Queries with their own candidates, the right one first."""

    name: str
    queries: list[Item]
    candidates: list[list[Item]]  # equal items are the same object


def load_train_subset(
    root: str,
    subset: str,
    split: str,
    revision: str | None = None,
    *,
    image_root: str | None = None,
    rows: int | None = None,
    sample: str = "first",
    seed: int = 0,
    on_bad_row: str = "raise",
) -> TrainSubset:
    """At most `rows` rows of a subset, the first ones or a random choice of this seed.

    Raises:
        DataError: no such folder, subset, split or column, or a bad row; names file, row, column
            and value.
    """
    table = load_table(root, subset, split, revision, TRAIN_COLUMNS, NEGATIVE_COLUMNS)
    total = len(table.rows)
    count = total if rows is None else min(rows, total)
    if sample == "random":
        random = np.random.default_rng([seed, crc32(subset.encode())])
        selected = sorted(random.choice(total, count, replace=False).tolist())
    else:
        selected = list(range(count))
    result = TrainSubset(subset, table, selected, image_folder(root, image_root, []))
    result.check(on_bad_row)
    return result


def load_eval_task(
    root: str,
    task: str,
    split: str,
    revision: str | None = None,
    *,
    image_root: str | None = None,
    limit: int | None = None,
) -> EvalTask:
    """The queries and candidates of one MMEB-eval task, the first `limit` queries of it.

    Raises:
        DataError: as :func:`load_train_subset`; here a bad row is never left out.
    """
    table = load_table(root, task, split, revision, EVAL_COLUMNS, ())
    images = image_folder(root, image_root, ["eval_images"])
    count = len(table.rows) if limit is None else min(limit, len(table.rows))
    find = cache(images.find)

    @cache
    def shared(text: str, path: str) -> Item:
        return _item(text, path, find)

    result = EvalTask(task, [], [])
    rows = plain_rows(table.rows.select(range(count)))
    bar = progress_bar(rows, total=count, desc=f"reading {task}", unit="row")
    for number, row in enumerate(bar):
        where = table.where(number)
        columns = ("qry_text", "qry_img_path")
        result.queries.append(_side(row, columns, where, shared))
        result.candidates.append(_candidates(row, where, shared))
    return result


def _pair(row: dict[str, Any], find: Callable[[str], str], where: str, row_id: str) -> Pair:
    def make(text: str, path: str) -> Item:
        return _item(text, path, find)

    query = _side(row, ("qry", "qry_image_path"), where, make)
    target = _side(row, ("pos_text", "pos_image_path"), where, make)
    return Pair(query, target, _negatives(row, where, make), row_id)


def _item(text: str, path: str, find: Callable[[str], str]) -> Item:
    return Item(strip_image_tokens(text), (find(path),) if path else ())


MakeItem = Callable[[str, str], Item]


def _side(
    row: dict[str, Any], columns: tuple[str, str], where: str, make: MakeItem, suffix: str = ""
) -> Item:
    """The item of a text column and an image column; None and "" both mean that there is none."""
    for column in columns:
        if not isinstance(row[column], str | None):
            value = repr(row[column])
            raise DataError(f"{where}, column '{column}{suffix}': got {value}, expected a text")
    text, path = row[columns[0]], row[columns[1]]
    try:
        item = make(text or "", path or "")
    except DataError as error:
        raise DataError(f"{where}, column '{columns[1]}{suffix}': {path!r}: {error}") from None
    if not item.kind:
        names = " and ".join(f"'{column}{suffix}'" for column in columns)
        raise DataError(f"{where}, columns {names}: got {text!r} and {path!r}, both empty")
    return item


def _negatives(row: dict[str, Any], where: str, make: MakeItem) -> tuple[Item, ...]:
    """The explicit negatives: each column a string or a list, one of the two may be empty."""
    lists = [_as_list(row.get(column)) for column in NEGATIVE_COLUMNS]
    count = max(map(len, lists))
    if any(values and len(values) != count for values in lists):
        sizes = " and ".join(str(len(values)) for values in lists)
        raise DataError(f"{where}, columns {quoted(NEGATIVE_COLUMNS)}: {sizes} entries")
    texts, paths = (values or [None] * count for values in lists)
    return tuple(
        _side(
            dict(zip(NEGATIVE_COLUMNS, side, strict=True)), NEGATIVE_COLUMNS, where, make, f"[{n}]"
        )
        for n, side in enumerate(zip(texts, paths, strict=True))
        if any(side)
    )


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if value else []


def _candidates(row: dict[str, Any], where: str, make: MakeItem) -> list[Item]:
    columns = ("tgt_text", "tgt_img_path")
    for column in columns:
        if not isinstance(row[column], list):
            raise DataError(f"{where}, column {column!r}: got {row[column]!r}, expected a list")
    texts, paths = row[columns[0]], row[columns[1]]
    if len(texts) != len(paths) or len(texts) < 2:
        sizes = f"{len(texts)} and {len(paths)} entries"
        raise DataError(
            f"{where}, columns {quoted(columns)}: {sizes}, expected equally many, 2 or more"
        )
    return [
        _side(dict(zip(columns, side, strict=True)), columns, where, make, f"[{n}]")
        for n, side in enumerate(zip(texts, paths, strict=True))
    ]


def _first_of(messages: list[str]) -> str:
    return messages[0] + (f" (and {len(messages) - 1} more bad rows)" if len(messages) > 1 else "")
