"""What training shows that an evaluation asks about: the same text, the same picture, or one that
looks the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from unime.data.checks.faults import Fault
from unime.data.checks.memory import PictureLog
from unime.data.checks.verify import Rows
from unime.data.rows import Row
from unime.inputs.items import Item, Pair

SAME_TEXT = "text of the evaluation"
SAME_PICTURE = "picture of the evaluation"
NEAR_PICTURE = "near-duplicate of the evaluation"
LEAKS = (SAME_TEXT, SAME_PICTURE, NEAR_PICTURE)
CELLS = 1 << 24  # of a block of distances

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
        self._asked: dict[int, list[tuple[int, str, str]]] = {}  # hash -> rows that show it

    def add(self, number: int, row: Row, pair: Pair) -> None:
        row_id = self.rows.row_id(row, number)
        for name, item in (("query", pair.query), ("target", pair.target)):
            column = ", ".join(self.rows.columns_of(name))
            if not item.images and (where := self.held.texts.get(normalised(item.text))):
                self._note(number, row_id, column, SAME_TEXT, f"the text of {where}")
            for path in item.images:
                seen = self.log.known[path]
                if where := self.held.contents.get(seen.digest):
                    words = f"{path}: the picture of {where}"
                    self._note(number, row_id, column, SAME_PICTURE, words)
                elif (looks := _bits(seen.looks)) is not None:
                    self._asked.setdefault(looks, []).append((number, row_id, column))

    def finish(self) -> list[Fault]:
        """All that was found, near-duplicates too."""
        for looks, (other, distance) in nearest(list(self._asked), list(self.held.looks)).items():
            if distance <= self.near:
                where = self.held.looks[other]
                for number, row_id, column in self._asked[looks]:
                    words = f"a picture that differs by {distance} bits of 64 from that of {where}"
                    self._note(number, row_id, column, NEAR_PICTURE, words)
        self.found.sort(key=lambda fault: fault.number)
        return self.found

    def _note(self, number: int, row_id: str, column: str, kind: str, words: str) -> None:
        where = self.rows.table.where(number)
        message = str(Row({}, where).error(words, column))
        self.found.append(Fault(number, where, row_id, kind, column, message, rejected=False))


def nearest(asked: list[int], among: list[int]) -> dict[int, tuple[int, int]]:
    """For each number of 64 bits the one that differs from it by the fewest bits, and by how
    many."""
    if not asked or not among:
        return {}
    others = np.array(among, np.uint64)  # (M,)
    found = {}
    size = max(1, CELLS // len(others))
    for start in range(0, len(asked), size):
        block = np.array(asked[start : start + size], np.uint64)  # (B,)
        distances = np.bitwise_count(block[:, None] ^ others[None])  # (B, M)
        best = distances.argmin(axis=1)
        for row, place in enumerate(best.tolist()):
            found[asked[start + row]] = among[place], int(distances[row, place])
    return found


def _bits(looks: str) -> int | None:
    """A perceptual hash as a number; None: there is none."""
    return int(looks, 16) if looks and looks != "flat" else None
