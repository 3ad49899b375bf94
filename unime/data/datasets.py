"""The rows of both stages: texts with their teacher embedding, and pairs of items."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress

import numpy as np
from torch import Tensor

from unime.config import PairData, TextData
from unime.data.embedding_store import StoredEmbeddings
from unime.data.teacher_store import TeacherMeta, open_store, text_key
from unime.data.texts import read_texts
from unime.data.train_subset import TrainSubset, load_train_subset
from unime.inputs.items import Item, Pair, image_digest
from unime.models.item_processor import ItemProcessor
from unime.runtime.distributed import Share, alone


@dataclass(frozen=True)
class TextRow:
    """One row of stage 1."""

    text: str
    teacher: Tensor  # (T,) float32, unit norm
    row_id: str = ""  # "nli.csv:17:sent0"


@dataclass(eq=False)
class TextDataset(Sequence[TextRow]):
    """Stage 1's distinct texts, each with the teacher's embedding of it."""

    texts: list[str]
    row_ids: list[str]
    store: StoredEmbeddings
    num_duplicates: int = 0  # texts that were there already and are left out
    texts_per_row: int = 1  # so many neighbours belong together

    @classmethod
    def load(cls, config: TextData) -> TextDataset:
        """Read the texts, and find each in the teacher's store.

        Raises:
            DataError: texts that cannot be read; a teacher store that is not there, is damaged, or
                lacks some of the texts.
        """
        found = read_texts(config.texts, config.columns, config.limit, not config.rows_together)
        store = open_store(config.teacher, found.texts)
        texts_per_row = len(config.columns) if config.rows_together else 1
        return cls(found.texts, found.row_ids, store, found.num_duplicates, texts_per_row)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> TextRow:  # type: ignore[override]  # no slices
        text = self.texts[index]
        return TextRow(text, self.store.embeddings([text_key(text)])[0], self.row_ids[index])

    @property
    def task_sizes(self) -> dict[str, int]:
        return {"text": len(self)}

    @property
    def teacher(self) -> TeacherMeta:
        """What made the teacher's embeddings."""
        return TeacherMeta(**self.store.facts)

    def things(self, strict: bool) -> list[list[Hashable]]:
        """Of every row what no row may share that is held out alone (hold_out.py)."""
        return [[text, number // self.texts_per_row] for number, text in enumerate(self.texts)]

    def split(self, held: Collection[int], strict: bool) -> tuple[TextDataset, TextDataset]:
        """All rows but `held`, and those."""
        rest, kept = (
            replace(
                self,
                texts=[self.texts[number] for number in chosen],
                row_ids=[self.row_ids[number] for number in chosen],
            )
            for chosen in (sorted(set(range(len(self))) - set(held)), sorted(held))
        )
        return rest, kept


class PairDataset(Sequence[Pair]):
    """Stage 2's rows of all sources, the rows of one task after the other's.

    Args:
        unseen: things that are nobody's explicit negatives: those of rows that are held out.

    Attributes:
        answers: keys of each row's query and target (N, 2), and of their right answers where rows
            name them (N, 3), once somebody has looked (survey.py).
    """

    answers: np.ndarray | None = None

    def __init__(
        self,
        subsets: list[TrainSubset],
        weights: list[float],
        unseen: frozenset[Hashable] = frozenset(),
    ):
        self._subsets = subsets
        self._unseen = unseen
        self._ends = list(accumulate(map(len, subsets)))
        self.task_sizes = {subset.name: len(subset) for subset in subsets}
        names = [subset.name for subset in subsets]
        self.task_weights = dict(zip(names, weights, strict=True))
        self.dropped = [message for subset in subsets for message in subset.dropped]

    @classmethod
    def load(
        cls,
        config: PairData,
        seed: int,
        processor: ItemProcessor | None = None,
        share: Share = alone,
    ) -> PairDataset:
        """Read the rows of all ``data.sources`` (:func:`load_train_subset`).

        Args:
            share: how the rows are checked for all ranks (`on_main_in_steps`).

        Raises:
            DataError: data that cannot be used; names file, row, column and value.
        """
        subsets = [
            load_train_subset(config, name, seed, processor, share) for name in config.sources
        ]
        return cls(subsets, [source.weight for source in config.sources.values()])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        subset = self._subsets[number]
        return self._without_unseen(subset[index - self._ends[number] + len(subset)])

    def __iter__(self) -> Iterator[Pair]:
        """Many times faster than one by one."""
        for subset in self._subsets:
            yield from map(self._without_unseen, subset)

    def _without_unseen(self, pair: Pair) -> Pair:
        if not (self._unseen and pair.negatives):
            return pair
        kept = [_thing(negative) not in self._unseen for negative in pair.negatives]
        scores = compress(pair.scores, [True, *kept])
        return replace(pair, negatives=tuple(compress(pair.negatives, kept)), scores=tuple(scores))

    def things(self, strict: bool) -> list[list[Hashable]]:
        """Of every row what no row may share that is held out alone (hold_out.py): the pictures of
        each of its items, or its text where there are none; or not `strict`: pictures alone, or the
        query's text where the row has none.

        Raises:
            DataError: a picture that cannot be read.
        """
        if strict:
            return [[_thing(pair.query), _thing(pair.target)] for pair in self]
        rows: list[list[Hashable]] = []
        for pair in self:
            sides = [_pictures(item) for item in (pair.query, pair.target)]
            query = (pair.query.instruction, pair.query.text)
            rows.append([shown for shown in sides if shown] or [query])
        return rows

    def split(self, held: Collection[int], strict: bool) -> tuple[PairDataset, PairDataset]:
        """All rows but `held`, without explicit negatives that `held` shows, and those; not
        `strict`: of the negatives those with pictures."""
        held = set(held)
        things = [_thing(item) for row in held for item in (self[row].query, self[row].target)]
        unseen = frozenset(thing for thing in things if strict or not isinstance(thing[0], str))
        rest, kept = [], []
        for end, subset in zip(self._ends, self._subsets, strict=True):
            numbered = list(enumerate(subset.selected, start=end - len(subset)))
            others = [row for number, row in numbered if number not in held]
            chosen = [row for number, row in numbered if number in held]
            rest.append(replace(subset, selected=others))
            kept.append(replace(subset, selected=chosen))
        weights = list(self.task_weights.values())
        without = PairDataset(rest, weights, unseen)
        if self.answers is not None:
            without.answers = np.delete(self.answers, sorted(held), axis=0)
        return without, PairDataset(kept, weights)


def _thing(item: Item) -> tuple[Hashable, ...]:
    """What an item shows: its pictures, or its text where there are none."""
    return _pictures(item) or (item.instruction, item.text)


def _pictures(item: Item) -> tuple[bytes, ...]:
    """The content of an item's images and frames."""
    return tuple(image_digest(path) for path in (*item.images, *item.video))
