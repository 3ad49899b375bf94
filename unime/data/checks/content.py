"""What the good rows of a task hold: lengths, copies, right answers, image tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from unime.backbones.image_tokens import CONTROL_TOKENS, IMAGE_TOKENS, MMEB_IMAGE_TOKEN
from unime.data.checks.faults import Fault
from unime.data.checks.items import ItemCheck
from unime.data.checks.memory import PictureLog
from unime.data.checks.verify import Rows
from unime.data.mmeb_rows import NEGATIVE_COLUMNS, TRAIN_COLUMNS
from unime.data.rows import Row
from unime.inputs.items import Item, Pair

TEXTS = 1000  # that are tokenized at a time
TOKEN_ALONE = "image token without picture"
PICTURE_ALONE = "picture without image token"
TOKEN_LEFT = "image token in a text"
CONTROL = "control token in a text"
DUPLICATE = "duplicate pair"
REMARKS = (TOKEN_ALONE, PICTURE_ALONE, TOKEN_LEFT, CONTROL, DUPLICATE)


@dataclass
class Histogram:
    """How many values lie between powers of two.

    Attributes:
        of: what is counted, and in what.
        counts: by the exponent: values from ``2 ** (n - 1)`` on, below ``2 ** n``.
    """

    of: str
    counts: dict[int, int] = field(default_factory=dict)
    most: int = 0

    def add(self, value: int, times: int = 1) -> None:
        exponent = value.bit_length()
        self.counts[exponent] = self.counts.get(exponent, 0) + times
        self.most = max(self.most, value)

    @classmethod
    def read(cls, written: dict[str, Any]) -> Histogram:
        """One that was written by `asdict`, as JSON has it."""
        counts = {int(n): int(count) for n, count in written["counts"].items()}
        return cls(str(written["of"]), counts, int(written["most"]))

    def join(self, other: Histogram) -> None:
        """Add what another one of the same has counted."""
        self.of, self.most = other.of, max(self.most, other.most)
        for exponent, count in other.counts.items():
            self.counts[exponent] = self.counts.get(exponent, 0) + count

    def bars(self) -> list[tuple[str, int]]:
        """Their range in words, and how many there are, without gaps."""
        if not self.counts:
            return []
        exponents = range(min(self.counts), max(self.counts) + 1)
        return [
            (f"{1 << n >> 1:,} to {(1 << n) - 1:,}" if n > 1 else str(n), self.counts.get(n, 0))
            for n in exponents
        ]


class Content:
    """Counts what the good rows of one task hold, row by row.

    Attributes:
        remarks: on rows, which are used all the same.
        lengths: of items in tokens, prompt and pictures included; without a processor of texts, in
            characters.
        num_cut: texts of more than ``inputs.max_text_tokens``.
        sides: of distinct pictures, the longer one in pixels.
    """

    def __init__(self, rows: Rows, log: PictureLog, check: ItemCheck | None) -> None:
        self.rows, self.log, self.check = rows, log, check
        of = "characters of a text" if check is None else "tokens of an item"
        self.lengths, self.sides = Histogram(of), Histogram("pixels of the longer side")
        self.remarks: list[Fault] = []
        self.num_cut = 0
        self._texts: list[tuple[str, int]] = []  # and the tokens beside it
        self._pairs: dict[int, int] = {}  # -> the first row
        self._answers: dict[int, int] = {}  # query -> the first one
        self._with_several: set[int] = set()
        self._named: dict[str, set[int]] = {}  # by what rows name as their answer: queries
        self._targets: dict[str, set[int]] = {}  # and targets
        self._control = check.processor.finds_control if check else CONTROL_TOKENS.search

    def add(self, number: int, row: Row, pair: Pair) -> None:
        for item in (pair.query, pair.target, *pair.negatives):
            beside = self.check.tokens_beside(item) if self.check else 0
            self._texts.append((item.text, beside))
        if len(self._texts) > TEXTS:
            self._measure()
        query, target = (self._key(item) for item in (pair.query, pair.target))
        first = self._pairs.setdefault(hash((query, target)), number)
        if first != number:
            self._remark(number, row, DUPLICATE, "", f"as {self.rows.table.where(first)}")
        if self._answers.setdefault(query, target) != target:
            self._with_several.add(query)
        if pair.answer:
            self._named.setdefault(pair.answer, set()).add(query)
            self._targets.setdefault(pair.answer, set()).add(target)
        for column, kind, words in _token_remarks(self.rows, row, pair):
            self._remark(number, row, kind, column, words)
        for column, text in _said(self.rows, row, pair):
            if found := self._control(IMAGE_TOKENS.sub("", text)):
                words = f"{found[0]!r} is shown to the model as letters"
                self._remark(number, row, CONTROL, column, words)

    def finish(self, files: list[str]) -> None:
        """Count what was kept back, and the pictures."""
        self._measure()
        for path in files:
            seen = self.log.known[path]
            if not seen.problem:
                self.sides.add(max(seen.size))

    @property
    def num_queries(self) -> int:
        """Different ones."""
        return len(self._answers)

    @property
    def num_with_several(self) -> int:
        """Different queries of several right answers, each of which is no negative of the others'
        rows: training and mining know queries by their content, and by what rows name."""
        named = (self._named[a] for a, targets in self._targets.items() if len(targets) > 1)
        return len(self._with_several.union(*named))

    def _remark(self, number: int, row: Row, kind: str, column: str, words: str) -> None:
        message = str(row.error(words, *([column] if column else [])))
        row_id = self.rows.row_id(row, number)
        self.remarks.append(Fault(number, row.where, row_id, kind, column, message, rejected=False))

    def _key(self, item: Item) -> int:
        pictures = tuple(self.log.known[path].digest for path in item.images)
        return hash((item.instruction, item.text, pictures))

    def _measure(self) -> None:
        kept, self._texts = Counter(self._texts), []
        if self.check is None:
            for (text, _), times in kept.items():
                self.lengths.add(len(text), times)
            return
        processor = self.check.processor
        texts = list(dict.fromkeys(processor.neutralise(text) for text, _ in kept))
        asked = {"add_special_tokens": False, "verbose": False}
        tokens = processor.tokenizer(texts, **asked)["input_ids"] if texts else []
        lengths = {text: len(own) for text, own in zip(texts, tokens, strict=True)}
        most = int(processor.inputs.max_text_tokens or 0)
        for (text, beside), times in kept.items():
            own = lengths[processor.neutralise(text)]
            self.num_cut += times * (own > most)
            self.lengths.add(beside + min(own, most), times)


def _token_remarks(rows: Rows, row: Row, pair: Pair) -> Iterator[tuple[str, str, str]]:
    """The column, kind and words of what is odd about image tokens. MMEB's rows have one for each
    picture, which is taken out; those of a prepared set have none."""
    for column, text, item in _texts(rows, row, pair):
        if not text:
            continue
        tokens = IMAGE_TOKENS.findall(text)
        own = [] if rows.is_prepared else [t for t in tokens if MMEB_IMAGE_TOKEN.fullmatch(t)]
        shown = f"{tokens[0]!r}" if tokens else ""
        if len(tokens) > len(own) and item.images:
            yield column, TOKEN_LEFT, f"{shown} is shown to the model as letters"
        elif len(tokens) > len(item.images):
            yield column, TOKEN_ALONE, f"{shown}, and {len(item.images)} pictures"
        if not rows.is_prepared and item.images and not tokens:
            yield column, PICTURE_ALONE, "a picture that no image token stands for; it comes first"


def _said(rows: Rows, row: Row, pair: Pair) -> Iterator[tuple[str, str]]:
    """Texts and instructions with their columns."""
    yield from ((column, text) for column, text, _ in _texts(rows, row, pair))
    if rows.is_prepared:
        yield "query.instruction", pair.query.instruction
        yield "target.instruction", pair.target.instruction


def _texts(rows: Rows, row: Row, pair: Pair) -> Iterator[tuple[str, str, Item]]:
    """The texts of a good row as they stand there, with their columns and items."""
    if rows.is_prepared:
        yield "query.text", pair.query.text, pair.query
        yield "target.text", pair.target.text, pair.target
        for number, item in enumerate(pair.negatives):
            yield f"negatives[{number}].text", item.text, item
        return
    yield TRAIN_COLUMNS[0], row[TRAIN_COLUMNS[0]] or "", pair.query
    yield TRAIN_COLUMNS[2], row[TRAIN_COLUMNS[2]] or "", pair.target
    column = NEGATIVE_COLUMNS[0]
    negatives = row.values.get(column)
    if isinstance(negatives, str):
        negatives = [negatives]
    if negatives and len(negatives) == len(pair.negatives):
        for number, (text, item) in enumerate(zip(negatives, pair.negatives, strict=True)):
            yield f"{column}[{number}]", text or "", item
