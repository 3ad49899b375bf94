"""The first reading of somebody's data: which rows are good, what they show, how many pairs they
make. Of a row a few numbers are kept."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TextIO

import numpy as np

from data_prep.own.pairs import SourcePair, pairs_of
from data_prep.own.passed_over import passed_over
from data_prep.own.pictures import Looks, Pictures
from data_prep.own.readers.base import BadRow, Reader, SourceItem, SourceRow
from data_prep.own.state import Beside
from data_prep.own.things import text_number, things_of
from unime.config import DataCheck, OwnDataConfig
from unime.data.checks.leakage import near_pairs
from unime.errors import DataError
from unime.inputs.images import READERS
from unime.runtime.progress import progress_bar

AT_ONCE = 32  # rows in memory, with the pictures that tables hold
EXAMPLES = 10
BAD, FREE, TRAIN, TEST = range(4)  # what is known of a row's split


class Survey:
    """What the first reading found.

    Attributes:
        rows: of each row, whether it is bad, or what the data say of its split.
        tasks: name -> its number.
        pairs: (row, task, how many) of good rows.
        examples: the first pairs.
        bad: the first bad rows.
        passed_over: kind of files that no row is read from -> how many, and the first.
        beside: the state of files that rows show beside the data.
    """

    def __init__(self, share_texts: bool) -> None:
        self.share_texts = share_texts
        self.rows = bytearray()
        self.tasks: dict[str, int] = {}
        self.pairs = (array("L"), array("L"), array("L"))
        self.examples: list[SourcePair] = []
        self.bad: list[BadRow] = []
        self.passed_over: dict[str, tuple[int, str]] = {}
        self.beside = ""
        self._things, self._rows_of = array("Q"), array("L")
        self._texts, self._pictures = array("Q"), array("Q")
        self._looks, self._rows_looking = array("Q"), array("L")  # like what, of rows' own pictures
        self._ids = set[int]()  # of rows

    def add(self, row: SourceRow, made: list[SourcePair], pictures: Pictures) -> None:
        """A good row with its pairs.

        Raises:
            DataError: it is none: a picture cannot be used.
        """
        if (number := hash(row.row_id)) in self._ids:
            raise DataError(f"id: {row.row_id!r} comes twice")
        items = (row.query, *row.targets, *row.negatives)
        shown = [looks for item in items for looks in _looks_of(item, pictures)]
        looks = {
            pictures.looks(p).perceptual for i in items[: 1 + len(row.targets)] for p in i.pictures
        }
        things = [number for number, _ in things_of(row, pictures, self.share_texts)]
        self._pictures.extend(int.from_bytes(looks.digest[:8]) for looks in shown)
        self._texts.extend(text_number(item.text) for item in items if item.text)
        self._things.extend(things)
        self._rows_of.extend([len(self.rows)] * len(things))
        self._ids.add(number)
        known = [int.from_bytes(one) for one in sorted(looks) if any(one)]
        self._looks.extend(known)
        self._rows_looking.extend([len(self.rows)] * len(known))
        for name in dict.fromkeys(pair.task for pair in made):
            count = sum(pair.task == name for pair in made)
            task = self.tasks.setdefault(name, len(self.tasks))
            for column, value in zip(self.pairs, (len(self.rows), task, count), strict=True):
                column.append(value)
        if len(self.examples) < EXAMPLES:
            self.examples += made[: EXAMPLES - len(self.examples)]
        self.rows.append({"train": TRAIN, "test": TEST, None: FREE}[row.split])

    def things(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of things, and the row that shows each."""
        return np.array(self._things, np.uint64), np.array(self._rows_of, np.int64)

    def alike(self) -> np.ndarray:
        """Rows whose pictures nearly look the same, two by two (M, 2)."""
        looks, first = np.unique(np.array(self._looks, np.uint64), return_index=True)
        rows: np.ndarray = np.array(self._rows_looking, np.int64)[first]
        return rows[near_pairs(looks, DataCheck().near)]

    def counts(self) -> dict[str, int]:
        """Of what there is, by what it is called."""
        return {
            "rows": len(self.rows),
            "bad rows": self.rows.count(BAD),
            "pictures": len(self._pictures),
            "distinct pictures": len(np.unique(np.array(self._pictures, np.uint64))),
            "texts": len(self._texts),
            "distinct texts": len(np.unique(np.array(self._texts, np.uint64))),
        }


def _looks_of(item: SourceItem, pictures: Pictures) -> Iterator[Looks]:
    for number, picture in enumerate(item.pictures):
        try:
            yield pictures.looks(picture)
        except DataError as error:
            columns = item.columns[number : number + 1]
            raise DataError("".join(f"column {c!r}: " for c in columns) + str(error)) from None


def survey(
    reader: Reader, config: OwnDataConfig, pictures: Pictures, rejected: Path | None
) -> Survey:
    """Read all rows once.

    Args:
        rejected: the file that lists the bad rows; None: nothing is written.

    Raises:
        DataError: data that cannot be read, or none of its rows.
    """
    shared = config.captions == "class" if config.share_texts is None else config.share_texts
    found, beside = Survey(shared), Beside(reader, config)
    with nullcontext() if rejected is None else _listing(rejected) as listing:
        for row in looked_at(beside.watch(reader), pictures, "reading"):
            try:
                if isinstance(row, BadRow):
                    raise DataError(row.reason)
                found.add(row, list(pairs_of(row, config)), pictures)
            except DataError as error:
                found.rows.append(BAD)
                bad = BadRow.of(row.where, error)
                found.bad += [bad] * (len(found.bad) < EXAMPLES)
                _list(listing, bad)
        for bad in _passed_over(reader, config, pictures, found.passed_over):
            _list(listing, bad)
    found.beside = beside.state()
    if not found.tasks:
        said = [f"{bad.where}: {bad.reason}" for bad in found.bad[:1]]
        raise DataError(f"{config.path}: no good row; {''.join(said) or 'it has none'}")
    return found


def _passed_over(
    reader: Reader,
    config: OwnDataConfig,
    pictures: Pictures,
    counts: dict[str, tuple[int, str]],
) -> Iterator[BadRow]:
    path = Path(config.path)
    if reader.files is None or not path.is_dir():
        return
    read = {os.path.abspath(file) for file in reader.files}
    for place, kind in passed_over(path, lambda name: name in read or pictures.shows(name)):
        count, first = counts.get(kind, (0, os.path.relpath(place, path)))
        counts[kind] = (count + 1, first)
        yield BadRow(place, f"passed over: {kind}")


def _listing(path: Path) -> TextIO:
    """Half a character of a file's name is written as JSON writes it."""
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def _list(listing: TextIO | None, bad: BadRow) -> None:
    if listing is not None:
        listing.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")


def looked_at(
    rows: Iterable[SourceRow | BadRow], pictures: Pictures, title: str
) -> Iterator[SourceRow | BadRow]:
    """All rows, whose pictures are known."""
    with ThreadPool(READERS) as pool:
        rows = iter(progress_bar(rows, desc=title, unit="row"))
        while some := list(islice(rows, AT_ONCE)):
            pictures.learn(_pictures(some), pool)
            yield from some


def _pictures(rows: Iterable[SourceRow | BadRow]) -> list[str | bytes]:
    return [
        picture
        for row in rows
        if isinstance(row, SourceRow)
        for item in (row.query, *row.targets, *row.negatives)
        for picture in item.pictures
    ]
