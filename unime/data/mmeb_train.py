"""MMEB's training rows, from a local folder or the hub; mmeb_rows.py knows the columns, and the
evaluation's rows are read by eval/tasks/mmeb_v1.py.

The images are unpacked below the local folder, or where ``data.image_root`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from zlib import crc32

import numpy as np

from unime.config import InputConfig
from unime.data.item_check import ItemCheck
from unime.data.mmeb_rows import (
    NEGATIVE_COLUMNS,
    TRAIN_COLUMNS,
    read_pair,
)
from unime.data.tables import ImageFolder, Table, image_folder, load_table, plain_rows
from unime.errors import DataError
from unime.inputs.images import read_images
from unime.inputs.items import Pair
from unime.models.item_processor import ItemProcessor
from unime.runtime.progress import progress_bar


@dataclass(frozen=True)
class Verify:
    """How training will read images, and prepare items; None: items are not looked at."""

    inputs: InputConfig
    processor: ItemProcessor | None = None


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
        return read_pair(
            self.table.rows[row], self.images.find, self.table.where(row), self._id(row)
        )

    def __iter__(self) -> Iterator[Pair]:
        chosen = plain_rows(self.table.rows.select(self.selected))
        for row, values in zip(self.selected, chosen, strict=True):
            yield read_pair(values, self.images.find, self.table.where(row), self._id(row))

    def check(self, on_bad_row: str, verify: Verify | None) -> None:
        """Look at every selected row and every distinct image, and keep the good rows.

        Args:
            verify: read each image and look at each item as training will; None: only look whether
                the images are there.

        Raises:
            DataError: the first bad row (`on_bad_row` "raise"), or no good one.
        """
        files: list[str] = []

        @cache
        def find(path: str) -> str:
            files.append(self.images.find(path))
            return files[-1]

        def find_readable(path: str) -> str:
            if find(path) in refused:
                raise DataError(refused[find(path)])
            return find(path)

        good, self.dropped = self._sorted_out(find)
        if verify is not None:
            sizes, refused = read_images(
                files, verify.inputs.max_image_pixels, f"reading images of {self.name}"
            )
            check = ItemCheck(verify.processor, sizes) if verify.processor else None
            good, self.dropped = self._sorted_out(find_readable, check)
        if self.dropped and on_bad_row == "raise":
            raise DataError(_first_of(self.dropped) + "; data.on_bad_row=drop leaves them out")
        if not good:
            raise DataError(f"{self.name}: no good row; {_first_of(self.dropped)}")
        self.selected = good

    def _sorted_out(
        self, find: Callable[[str], str], check: ItemCheck | None = None
    ) -> tuple[list[int], list[str]]:
        """The good ones of the selected rows, and what is wrong with each bad one."""
        good, bad = [], []
        chosen = self.table.rows.select(self.selected)
        with progress_bar(total=len(self), desc=f"checking {self.name}", unit="row") as bar:
            for row, values in zip(self.selected, plain_rows(chosen), strict=True):
                where = self.table.where(row)
                try:
                    pair = read_pair(values, find, where, self._id(row))
                    _check_items(pair, check, where)
                    good.append(row)
                except DataError as error:
                    bad.append(str(error))
                bar.update()
        return good, bad

    def _id(self, row: int) -> str:
        return f"{self.name}:{row}"


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
    verify: Verify | None = None,
) -> TrainSubset:
    """At most `rows` rows of a subset, the first ones or a random choice of this seed; with
    `verify`, an item that cannot be read and prepared so makes its row a bad one.

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
    result.check(on_bad_row, verify)
    return result


def _check_items(pair: Pair, check: ItemCheck | None, where: str) -> None:
    if check is None:
        return
    named = [("query", pair.query), ("target", pair.target)]
    named += [(f"negative {number}", item) for number, item in enumerate(pair.negatives)]
    for name, item in named:
        try:
            check(item)
        except DataError as error:
            raise DataError(f"{where}, {name}: {error}") from None


def _first_of(messages: list[str]) -> str:
    return messages[0] + (f" (and {len(messages) - 1} more bad rows)" if len(messages) > 1 else "")
