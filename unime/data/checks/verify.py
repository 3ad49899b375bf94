"""Which rows training can use: every row, every picture and every item is looked at as training
will look at it, and what was found is remembered (:mod:`unime.data.checks.memory`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from unime.config import InputConfig
from unime.data.checks.faults import Fault
from unime.data.checks.items import ItemCheck, processor_settings
from unime.data.checks.memory import (
    PictureLog,
    key_of,
    remember,
    remembered,
    rows_digest,
    states_digest,
)
from unime.data.checks.pictures import picture_log, read_pictures
from unime.data.rows import Row
from unime.data.tables import HeldTable, ImageFolder
from unime.errors import DataError
from unime.inputs.items import Pair
from unime.models.item_processor import ItemProcessor
from unime.runtime.environment import code_digest, installed_versions
from unime.runtime.progress import progress_bar

Find = Callable[[str], str]
ROWS = "rows"  # what the memory calls them
STEP = 256  # rows
ITEM = re.compile(r"query|target|negative \d+")  # as an item check names them
PACKAGES = ("transformers", "tokenizers", "torchvision", "pillow", "numpy")


class Rows(Protocol):
    """Rows of one task: a :class:`unime.data.train_subset.TrainSubset`."""

    name: str
    table: HeldTable
    selected: list[int]
    images: ImageFolder
    is_prepared: bool
    answer_column: str | None

    def read(self, row: Row, find: Find, number: int) -> Pair:
        """A row as a pair; raises DataError."""

    def row_id(self, row: Row, number: int) -> str:
        """What names it, as far as it has a name."""

    def columns_of(self, item: str) -> tuple[str, ...]:
        """Where the cells of an item are: "query", "target" or "negative 0"."""


@dataclass
class Verified:
    """What was found.

    Attributes:
        faults: why rows are rejected, one of each.
        files: the pictures of all rows that could be read.
        states: of their files (`states_digest`).
        log: what was seen of them.
        key: of these rows and all that the findings depend on, but for the pictures' content.
    """

    faults: list[Fault]
    files: list[str]
    states: str
    log: PictureLog
    key: str

    @classmethod
    def remembered(cls, key: str, log: PictureLog) -> Verified | None:
        """What was found before, if there is any."""
        found = remembered(ROWS, key)
        try:
            files, states = [str(path) for path in found["files"]], str(found["states"])
            faults = [Fault(**fault) for fault in found["faults"]]
        except (KeyError, TypeError):
            return None
        return cls(faults, files, states, log, key)

    def remember(self) -> None:
        faults = [asdict(fault) for fault in self.faults]
        remember(ROWS, self.key, {"files": self.files, "states": self.states, "faults": faults})


def look_at_rows(
    rows: Rows, numbers: Sequence[int], find: Find, check: ItemCheck | None = None
) -> Generator[None, None, list[Fault]]:
    """Read these of the selected rows, and look at their items if there is a check for them.

    Yields:
        Whenever some are read.
    """
    faults = []
    with progress_bar(total=len(numbers), desc=f"checking {rows.name}", unit="row") as bar:
        for place, (number, row) in enumerate(
            zip(numbers, rows.table.read(numbers), strict=True), start=1
        ):
            try:
                pair = rows.read(row, find, number)
                if check is not None:
                    check(pair, row.where)
            except DataError as error:
                faults.append(_fault(rows, number, row, error))
            if place % STEP == 0:
                bar.update(STEP)
                yield
    return faults


def _fault(rows: Rows, number: int, row: Row, error: DataError) -> Fault:
    if len(error.columns) == 1 and ITEM.fullmatch(error.columns[0]):
        error.columns = rows.columns_of(error.columns[0])
    return Fault.of(number, row, rows.row_id(row, number), error)


def verify(
    rows: Rows,
    processor: ItemProcessor | None,
    looks: bool = False,
    num_workers: int | None = None,
    log: PictureLog | None = None,
    max_pixels: int | None = None,
) -> Generator[None, None, Verified]:
    """Look at every selected row, every distinct picture and every item. What an earlier check
    found of the same rows counts, as far as their pictures are what they were: of pictures those
    are read that have changed, of rows those are looked at that were bad.

    Args:
        processor: how training will prepare the items; None: pictures are read with default
            settings, and that is all.
        looks: whether perceptual hashes are made of pictures that are read.
        num_workers: processes that read pictures; None: one a core.
        log: of pictures in the rows' folders; None: it is opened.
        max_pixels: of a picture that training will read; None: as the processor has it.

    Yields:
        Between steps of a second or so.
    """
    max_pixels = max_pixels_of(processor) if max_pixels is None else max_pixels
    key = _key(rows, processor, max_pixels)
    log = log or picture_log(max_pixels, rows.images.roots)
    known = Verified.remembered(key, log)
    look = _Look(rows, processor, log, looks, num_workers, max_pixels)
    if known is not None and states_digest(known.files) == known.states:
        faults, _ = yield from look.at([fault.number for fault in known.faults])
        if faults == known.faults:
            return known
    faults, files = yield from look.at(rows.selected)
    found = Verified(faults, files, states_digest(files), log, key)
    found.remember()
    return found


def max_pixels_of(processor: ItemProcessor | None) -> int:
    """Of a picture that training will read."""
    return (processor.inputs if processor else InputConfig()).max_image_pixels


def _key(rows: Rows, processor: ItemProcessor | None, max_pixels: int) -> str:
    versions = installed_versions()
    return key_of(
        rows.name,
        rows_digest(rows.table.rows.to_batches()),
        [place for place, _ in rows.table.shards],
        list(_ranges(rows.selected)),
        [rows.is_prepared, rows.answer_column],
        [*map(str, rows.images.roots), rows.images.within],
        processor_settings(processor),
        max_pixels,
        code_digest(),
        [versions.get(package) for package in PACKAGES],
    )


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of ascending numbers without a gap."""
    first = before = None
    for number in numbers:
        if first is None or before is None or number != before + 1:
            if first is not None and before is not None:
                yield first, before
            first = number
        before = number
    if first is not None and before is not None:
        yield first, before


@dataclass
class _Look:
    rows: Rows
    processor: ItemProcessor | None
    log: PictureLog
    looks: bool
    num_workers: int | None
    max_pixels: int

    def at(self, numbers: Sequence[int]) -> Generator[None, None, tuple[list[Fault], list[str]]]:
        """The faults of these rows, and the pictures of those that can be read."""
        files: dict[str, str] = {}

        def find(path: str) -> str:
            if path not in files:
                try:
                    files[path] = self.rows.images.find(path)
                except DataError as error:
                    raise DataError(str(error), "missing picture") from None
            return files[path]

        def find_readable(path: str) -> str:
            seen = self.log.known[find(path)]
            if seen.problem:
                raise DataError(seen.problem, seen.kind)
            return find(path)

        unreadable = yield from look_at_rows(self.rows, numbers, find)
        listed, title = list(dict.fromkeys(files.values())), f"reading pictures of {self.rows.name}"
        yield from read_pictures(
            listed, self.log, self.max_pixels, title, self.looks, self.num_workers
        )
        bad = {fault.number for fault in unreadable}
        good = [number for number in numbers if number not in bad]
        check = ItemCheck(self.processor, self.log.size_of) if self.processor else None
        refused = yield from look_at_rows(self.rows, good, find_readable, check)
        return sorted(unreadable + refused, key=lambda fault: fault.number), listed
