"""The second reading of somebody's data: its pairs, written as a prepared set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import compress
from pathlib import Path

from data_prep.own.instructions import instructed
from data_prep.own.pairs import SourcePair, pairs_of
from data_prep.own.pictures import Pictures
from data_prep.own.readers.base import Reader, SourceItem, SourceRow
from data_prep.own.split import Split
from data_prep.own.survey import BAD, Survey, looked_at
from data_prep.own.things import things_of_item
from unime.config import OwnDataConfig
from unime.data.prepared.folder import RowWriter
from unime.errors import DataError
from unime.inputs.items import Item, Pair

SUITE = "suite.yaml"


class SetWriter:
    """Writes every pair into the shards of its task and split.

    Args:
        unseen: things that are held out, of which none is a negative in training.
        copies: whether pictures are copied into the set.
    """

    def __init__(
        self, out: Path, split: Split, pictures: Pictures, unseen: frozenset[int], copies: bool
    ) -> None:
        self.out, self.pictures, self.unseen, self.copies = out, pictures, unseen, copies
        self.left_out: Counter[str] = Counter()  # negatives, by why
        self._writers = {
            (task, name): RowWriter(out / task, name, total)
            for task, sizes in split.sizes.items()
            for name, total in sizes.items()
            if total
        }

    def add(self, pair: SourcePair, is_test: bool) -> None:
        words = pair.instruction
        kept = [not is_test and not self._is_unseen(negative) for negative in pair.negatives]
        negatives = list(compress(pair.negatives, kept))
        why = "of rows that are held out" if is_test else "that rows which are held out show"
        self.left_out[why] += len(pair.negatives) - len(negatives)
        made = Pair(
            self._item(pair.query, words.query),
            self._item(pair.target, words.target),
            tuple(self._item(item, words.target) for item in negatives),
            pair.row_id,
            tuple(compress(pair.scores, [True, *kept])),
            pair.answer,
        )
        self._writers[pair.task, "test" if is_test else "train"].add(made)

    def close(self) -> None:
        """Raises:
        DataError: the data are others than when they were read first.
        """
        for writer in self._writers.values():
            writer.close()

    def _is_unseen(self, item: SourceItem) -> bool:
        return bool(self.unseen) and any(
            number in self.unseen for number, _ in things_of_item(item, self.pictures)
        )

    def _item(self, item: SourceItem, words: str) -> Item:
        images = tuple(
            self.pictures.copy(picture, self.out) if self.copies else self.pictures.path(picture)
            for picture in item.pictures
        )
        return instructed(item, images, words)


def write_set(
    out: Path,
    reader: Reader,
    config: OwnDataConfig,
    found: Survey,
    split: Split,
    pictures: Pictures,
) -> tuple[bool, list[str]]:
    """Write the shards and the suite; returns whether pictures were copied, and remarks.

    Raises:
        DataError: the data are others than when they were read first.
    """
    copies = config.copy_images or pictures.embedded
    things, rows = found.things()
    unseen = frozenset(things[split.is_test[rows]].tolist())
    writer = SetWriter(out, split, pictures, unseen, copies)
    changed = DataError(f"{config.path}: changed while it was read; type the command again")
    count = 0
    for count, row in enumerate(looked_at(reader, pictures, "writing"), 1):
        if count > len(found.rows):
            raise changed
        if found.rows[count - 1] == BAD:
            continue
        if not isinstance(row, SourceRow):
            raise changed
        for pair in pairs_of(row, config):
            writer.add(pair, bool(split.is_test[count - 1]))
    if count != len(found.rows):
        raise changed
    writer.close()
    (out / SUITE).write_text(suite_of(split), encoding="utf-8")
    remarks = [f"{n} negatives {why} are left out" for why, n in writer.left_out.items() if n]
    return copies, remarks


def suite_of(split: Split) -> str:
    """The evaluation of what is held out."""
    tasks = [task for task, sizes in split.sizes.items() if sizes["test"]]
    lines = [
        f"{json.dumps(task)}: {{meta_task: retrieval, distribution: ind, format: prepared}}\n"
        for task in tasks
    ]
    head = "# What is held out: ./launch.sh eval … data.root=HERE data.suite=HERE/suite.yaml\n"
    return head + "".join(lines)


def examples_in_words(examples: Iterable[SourcePair]) -> list[str]:
    """Pairs as a terminal shows them."""

    def shown(item: SourceItem, words: str) -> str:
        parts = [
            f"[{p if isinstance(p, str) else 'a picture in the table'}]" for p in item.pictures
        ]
        own = words if item.instruction is None else item.instruction
        return " ".join(filter(None, (own and f"({own})", *parts, item.text)))

    return [
        f"{pair.task}: {shown(pair.query, pair.instruction.query)}\n"
        f"    → {shown(pair.target, pair.instruction.target)}"
        + (f"\n    and {len(pair.negatives)} negatives" if pair.negatives else "")
        for pair in examples
    ]
