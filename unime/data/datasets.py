"""The rows of both stages: texts with their teacher embedding, and pairs of items."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from unime.config import InputConfig, PairData, TextData
from unime.data.mmeb_train import TrainSubset, Verify, load_train_subset
from unime.data.sampler import GlobalBatchSampler
from unime.data.teacher_store import TeacherMeta, TeacherStore
from unime.data.texts import read_texts
from unime.errors import DataError
from unime.inputs.items import Item, Pair, image_digest, item_key
from unime.models.item_processor import ItemProcessor

__all__ = [
    "DataError",
    "GlobalBatchSampler",
    "Item",
    "Pair",
    "PairDataset",
    "TextDataset",
    "TextRow",
    "item_key",
]


@dataclass(frozen=True)
class TextRow:
    """One row of stage 1."""

    text: str
    teacher: Tensor  # (T,) float32, unit norm
    row_id: str = ""  # "nli.csv:17:sent0"


class TextDataset(Sequence[TextRow]):
    """Stage 1's distinct texts, each with the teacher's embedding of it."""

    def __init__(self, texts: list[str], row_ids: list[str], store: TeacherStore, rows: np.ndarray):
        self.texts = texts
        self.num_duplicates = 0  # texts that were there already and are left out
        self.texts_per_row = 1  # so many neighbours belong together
        self._row_ids = row_ids
        self._store = store
        self._rows = rows  # (len(texts),) rows of the store

    @classmethod
    def load(cls, config: TextData) -> TextDataset:
        """Read the texts, and find each in the teacher's store.

        Raises:
            DataError: texts that cannot be read; a teacher store that is not there, not complete,
                or lacks some of the texts.
        """
        distinct = not config.rows_together
        found = read_texts(config.texts, config.columns, config.limit, distinct)
        store = TeacherStore.open(config.teacher)
        dataset = cls(found.texts, found.row_ids, store, store.find(found.texts))
        dataset.num_duplicates = found.num_duplicates
        dataset.texts_per_row = len(config.columns) if config.rows_together else 1
        return dataset

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> TextRow:  # type: ignore[override]  # no slices
        teacher = torch.from_numpy(np.array(self._store.embeddings[self._rows[index]]))
        return TextRow(self.texts[index], teacher, self._row_ids[index])

    @property
    def task_sizes(self) -> dict[str, int]:
        return {"text": len(self)}

    @property
    def teacher(self) -> TeacherMeta:
        """What made the teacher's embeddings."""
        return self._store.meta

    def things(self, strict: bool) -> list[list[Hashable]]:
        """Of every row what no row may share that is held out alone (hold_out.py)."""
        return [[text, number // self.texts_per_row] for number, text in enumerate(self.texts)]

    def split(self, held: Collection[int], strict: bool) -> tuple[TextDataset, TextDataset]:
        """All rows but `held`, and those."""
        parts = []
        for chosen in (sorted(set(range(len(self))) - set(held)), sorted(held)):
            texts, row_ids = [self.texts[n] for n in chosen], [self._row_ids[n] for n in chosen]
            part = TextDataset(texts, row_ids, self._store, self._rows[chosen])
            part.num_duplicates, part.texts_per_row = self.num_duplicates, self.texts_per_row
            parts.append(part)
        return parts[0], parts[1]


class PairDataset(Sequence[Pair]):
    """Stage 2's rows of all sources, the rows of one task after the other's.

    Args:
        unseen: things that are nobody's explicit negatives: those of rows that are held out.
    """

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
        cls, config: PairData, seed: int, processor: ItemProcessor | None = None
    ) -> PairDataset:
        """Read the rows of every source.

        Args:
            processor: how training will prepare the items, for ``data.verify_images``; None: images
                are read with default settings, and that is all.

        Raises:
            DataError: see :func:`unime.data.mmeb_train.load_train_subset`.
        """
        verify = Verify(processor.inputs if processor else InputConfig(), processor)
        subsets = [
            load_train_subset(
                config.root,
                name,
                config.split,
                config.revision,
                image_root=config.image_root,
                rows=source.rows,
                sample=source.sample,
                seed=seed,
                on_bad_row=config.on_bad_row,
                verify=verify if config.verify_images else None,
            )
            for name, source in config.sources.items()
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
        return replace(
            pair, negatives=tuple(n for n in pair.negatives if _thing(n) not in self._unseen)
        )

    def things(self, strict: bool) -> list[list[Hashable]]:
        """Of every row what no row may share that is held out alone (hold_out.py): the pictures of
        each of its items, or its text where there are none; or not `strict`: pictures alone, or the
        query's text where the row has none.

        Raises:
            DataError: a picture that cannot be read.
        """
        rows: list[list[Hashable]] = []
        for pair in self:
            sides = [_pictures(item) for item in (pair.query, pair.target)]
            if strict:
                rows.append([_thing(pair.query), _thing(pair.target)])
            else:
                query = (pair.query.instruction, pair.query.text)
                rows.append([shown for shown in sides if shown] or [query])
        return rows

    def split(self, held: Collection[int], strict: bool) -> tuple[PairDataset, PairDataset]:
        """All rows but `held`, without explicit negatives that `held` shows, and those; not
        `strict`: of the negatives those with pictures."""
        held = set(held)
        things = [_thing(item) for row in held for item in (self[row].query, self[row].target)]
        unseen = frozenset(thing for thing in things if strict or not isinstance(thing[0], str))
        parts: tuple[list[TrainSubset], list[TrainSubset]] = ([], [])
        weights = list(self.task_weights.values())
        for end, subset in zip(self._ends, self._subsets, strict=True):
            own: tuple[list[int], list[int]] = ([], [])
            for number, row in enumerate(subset.selected, start=end - len(subset)):
                own[number in held].append(row)
            for part, selected in zip(parts, own, strict=True):
                part.append(replace(subset, selected=selected))
        return PairDataset(parts[0], weights, unseen), PairDataset(parts[1], weights)


def _thing(item: Item) -> tuple[Hashable, ...]:
    """What an item shows: its pictures, or its text where there are none."""
    return _pictures(item) or (item.instruction, item.text)


def _pictures(item: Item) -> tuple[bytes, ...]:
    """The content of an item's images and frames."""
    return tuple(image_digest(path) for path in (*item.images, *item.video))
