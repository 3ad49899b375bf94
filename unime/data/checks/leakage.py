"""What training shows that an evaluation asks about: the same text, the same picture, or one that
looks the same."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from unime.data.checks.faults import Fault
from unime.data.checks.memory import PictureLog, key_of
from unime.data.checks.verify import Rows
from unime.data.rows import Row
from unime.inputs.items import Item, Pair

SAME_TEXT = "text of the evaluation"
SAME_PICTURE = "picture of the evaluation"
NEAR_PICTURE = "near-duplicate of the evaluation"
LEAKS = (SAME_TEXT, SAME_PICTURE, NEAR_PICTURE)
CELLS = 1 << 20  # of a block of distances

HeldItem = tuple[str, Item]  # where an evaluation has it, and what it is


def normalised(text: str) -> str:
    """A text without what does not tell two apart: compatible forms of a character, case, and how
    much white space there is."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass
class Held:
    """What an evaluation asks and expects. Items without pictures are known by their text, others
    by their pictures.

    Attributes:
        texts, contents, looks: normalised texts, digests of files and perceptual hashes -> where.
    """

    texts: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    looks: dict[int, str] = field(default_factory=dict)

    def add(self, items: Iterable[HeldItem], log: PictureLog) -> None:
        """Of items whose pictures were read, all but videos, which training does not show."""
        for where, item in items:
            if not item.images and not item.video:
                self.texts.setdefault(normalised(item.text), where)
            for path in item.images:
                seen = log.known[path]
                if not seen.problem:
                    self.contents.setdefault(seen.digest, where)
                    if (looks := _bits(seen.looks)) is not None:
                        self.looks.setdefault(looks, where)

    @property
    def digest(self) -> str:
        """Of all of it."""
        return key_of(sorted(self.texts.items()), sorted(self.contents.items()), [*self.looks])

    def __bool__(self) -> bool:
        return bool(self.texts or self.contents)


class Leaks:
    """Looks for rows of one task that show what is held out.

    Args:
        near: bits by which perceptual hashes of near-duplicates may differ.
    """

    def __init__(self, rows: Rows, held: Held, log: PictureLog, near: int) -> None:
        self.rows, self.held, self.log, self.near = rows, held, log, near
        self.found: list[Fault] = []
        self._looks, self._rows = array("Q"), array("q")  # of pictures, and which rows show them

    def add(self, number: int, row: Row, pair: Pair) -> None:
        for side, item in enumerate((pair.query, pair.target)):
            if not item.images and (where := self.held.texts.get(normalised(item.text))):
                self._note(number, side, SAME_TEXT, f"the text of {where}")
            for path in item.images:
                seen = self.log.known[path]
                if where := self.held.contents.get(seen.digest):
                    words = f"{path}: the picture of {where}"
                    self._note(number, side, SAME_PICTURE, words)
                elif (looks := _bits(seen.looks)) is not None:
                    self._looks.append(looks)
                    self._rows.append(2 * number + side)

    def finish(self) -> list[Fault]:
        """All that was found, near-duplicates too."""
        places, distances = nearest(self._looks, list(self.held.looks))
        held = list(self.held.looks.values())
        for shown in np.flatnonzero(distances <= self.near).tolist():
            number, side = divmod(self._rows[shown], 2)
            words = f"a picture that differs by {distances[shown]} bits of 64 from that of"
            self._note(number, side, NEAR_PICTURE, f"{words} {held[places[shown]]}")
        self.found.sort(key=lambda fault: fault.number)
        return self.found

    def _note(self, number: int, side: int, kind: str, words: str) -> None:
        row = self.rows.table[number]
        column = ", ".join(self.rows.columns_of(("query", "target")[side]))
        message, row_id = str(row.error(words, column)), self.rows.row_id(row, number)
        self.found.append(Fault(number, row.where, row_id, kind, column, message, rejected=False))


def nearest(asked: Sequence[int], among: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each number of 64 bits the place of the one that differs from it by the fewest bits, and
    by how many (N,); more than 64 where there is none."""
    mine, others = np.array(asked, np.uint64), np.array(among, np.uint64)  # (N,), (M,)
    places, distances = np.zeros(len(mine), np.int64), np.full(len(mine), 65, np.int64)
    size = max(1, CELLS // max(1, len(others)))
    for start in range(0, len(mine) if len(others) else 0, size):
        block = slice(start, start + size)
        apart = np.bitwise_count(mine[block, None] ^ others[None])  # (B, M)
        places[block], distances[block] = apart.argmin(axis=1), apart.min(axis=1)
    return places, distances


def near_pairs(looks: np.ndarray, near: int) -> np.ndarray:
    """All pairs of numbers of 64 bits that differ by few bits.

    Of any such pair one of `near` + 1 parts of the bits is equal, so that only those are compared.

    Args:
        looks: different ones (N,), uint64.
        near: bits by which the two of a pair may differ.

    Returns:
        Places (M, 2), the smaller first; a pair may come several times.
    """
    found = [np.empty((0, 2), np.int64)]
    ends = np.linspace(0, 64, near + 2).astype(int)
    for low, high in pairwise(ends.tolist()):
        part = (looks >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = part.argsort(kind="stable")
        first = np.arange(len(order) - 1)
        for step in range(1, len(order)):
            first = first[first + step < len(order)]
            first = first[part[order[first]] == part[order[first + step]]]
            if not len(first):
                break
            ends_of = np.stack([order[first], order[first + step]], axis=1)
            apart = np.bitwise_count(looks[ends_of[:, 0]] ^ looks[ends_of[:, 1]])
            found.append(np.sort(ends_of[apart <= near], axis=1))
    return np.concatenate(found)


def _bits(looks: str) -> int | None:
    """A perceptual hash as a number; None: there is none."""
    return int(looks, 16) if looks and looks != "flat" else None
