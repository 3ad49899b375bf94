"""The training rows of one task: MMEB's, from a local folder or the hub (mmeb_rows.py knows their
columns), or those of a prepared set (prepared/rows.py).

MMEB's images are unpacked below the local folder, or where ``data.image_root`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from zlib import crc32

import numpy as np

from unime.config import PairData
from unime.data.checks.faults import Fault
from unime.data.checks.verify import look_at_rows, verify
from unime.data.mmeb_rows import NEGATIVE_COLUMNS, TRAIN_COLUMNS, read_pair
from unime.data.prepared.folder import PreparedSet
from unime.data.prepared.rows import OPTIONAL_COLUMNS, PREPARED_COLUMNS, read_prepared
from unime.data.rows import Row
from unime.data.tables import HeldTable, ImageFolder, image_folder, load_table
from unime.errors import DataError, require
from unime.inputs.items import Pair
from unime.models.item_processor import ItemProcessor
from unime.runtime.distributed import Share, alone


@dataclass
class TrainSubset:
    """The selected rows of one MMEB-train subset; checked when loaded, read when asked for."""

    name: str
    table: HeldTable
    selected: list[int]  # ascending
    images: ImageFolder
    is_prepared: bool = False  # else the rows are MMEB's
    dropped: list[str] = field(default_factory=list)  # messages of the bad rows that were left out
    answer_column: str | None = None  # of MMEB's rows: what names their right answer

    def __len__(self) -> int:
        return len(self.selected)

    def __getitem__(self, index: int) -> Pair:
        number = self.selected[index]
        return self.read(self.table[number], self.images.find, number)

    def __iter__(self) -> Iterator[Pair]:
        for number, row in zip(self.selected, self.table.read(self.selected), strict=True):
            yield self.read(row, self.images.find, number)

    def check(self, data: PairData, processor: ItemProcessor | None, share: Share = alone) -> None:
        """Look at every selected row and every distinct image, and keep the good rows; with
        ``data.verify_images`` read each image and look at each item, as training will, but for
        what an earlier check found of the same content (checks/verify.py).

        Args:
            share: how it is done for all ranks.

        Raises:
            DataError: the first bad row (``data.on_bad_row`` "raise"), or no good one.
        """

        def faults() -> Generator[None, None, list[Fault]]:
            if data.verify_images:
                return (yield from verify(self, processor)).faults
            return (yield from look_at_rows(self, self.selected, cache(self.images.find)))

        self.leave_out(share(faults))
        if self.dropped and data.on_bad_row == "raise":
            raise DataError(_first_of(self.dropped) + "; data.on_bad_row=drop leaves them out")
        if not self.selected:
            raise DataError(f"{self.name}: no good row; {_first_of(self.dropped)}")

    def leave_out(self, faults: Sequence[Fault]) -> None:
        """Select these rows no more."""
        bad = {fault.number for fault in faults}
        self.selected = [number for number in self.selected if number not in bad]
        self.dropped = [fault.message for fault in faults]

    def read(self, row: Row, find: Callable[[str], str], number: int) -> Pair:
        """A row as a pair.

        Raises:
            DataError: a bad row; names file, row, column and value.
        """
        if self.is_prepared:
            pair = read_prepared(row, find)
        else:
            pair = read_pair(row, find, f"{self.name}:{number}", self.answer_column)
        return replace(pair, task=self.name)

    def row_id(self, row: Row, number: int) -> str:
        """What names a row, bad ones too, as far as they have a name."""
        if self.is_prepared:
            found = row.values.get("row_id")
            return found if isinstance(found, str) else ""
        return f"{self.name}:{number}"

    def columns_of(self, item: str) -> tuple[str, ...]:
        """Where the cells of an item are: "query", "target" or "negative 0"."""
        name, _, number = item.partition(" ")
        if self.is_prepared:
            return (f"negatives[{number}]" if number else name,)
        sides = {"query": TRAIN_COLUMNS[:2], "target": TRAIN_COLUMNS[2:]}
        return sides.get(name, NEGATIVE_COLUMNS)


def load_train_subset(
    data: PairData,
    name: str,
    seed: int = 0,
    processor: ItemProcessor | None = None,
    share: Share = alone,
) -> TrainSubset:
    """The good rows of one of ``data.sources`` (:func:`open_train_subset`,
    :meth:`TrainSubset.check`).

    Args:
        processor: how training will prepare the items, for ``data.verify_images``; None: images
            are read with default settings, and that is all.
        share: how the check is done for all ranks.

    Raises:
        DataError: no such folder, subset, split or column, or a bad row; names file, row, column
            and value.
    """
    subset = open_train_subset(data, name, seed)
    subset.check(data, processor, share)
    return subset


def open_train_subset(data: PairData, name: str, seed: int = 0) -> TrainSubset:
    """The rows of one of ``data.sources``, of which none was looked at: so many as it says, the
    first ones or a random choice.

    Raises:
        ConfigError: ``data.answer_column`` of a prepared set.
        DataError: no such folder, subset, split or column.
    """
    prepared, answers = PreparedSet.of(data.root), data.answer_column
    required: tuple[str, ...] = PREPARED_COLUMNS
    optional: tuple[str, ...] = OPTIONAL_COLUMNS
    if prepared is None:
        named = () if answers is None else (answers,)
        required = tuple(dict.fromkeys((*TRAIN_COLUMNS, *named)))
        optional = tuple(column for column in NEGATIVE_COLUMNS if column not in required)
    else:
        expected = f"null: the rows of a prepared set ({data.root}) say it themselves"
        require(answers is None, "data.answer_column", answers, expected)
    split = data.split or ("original" if prepared is None else "train")
    table = load_table(
        data.root, name, split, data.revision, required, optional, data.follow_links
    ).held()
    source, total = data.sources[name], len(table)
    count = min(source.rows or total, total)
    selected = list(range(count))
    if source.sample == "random":
        random = np.random.default_rng([seed, crc32(name.encode())])
        selected = sorted(random.choice(total, count, replace=False).tolist())
    image_root = data.image_root or (prepared and prepared.image_root) or None
    images = image_folder(data.root, image_root, [], data.follow_links)
    is_prepared = prepared is not None
    return TrainSubset(name, table, selected, images, is_prepared, answer_column=answers)


def _first_of(messages: list[str]) -> str:
    return messages[0] + (f" (and {len(messages) - 1} more bad rows)" if len(messages) > 1 else "")
