"""Rows of both stages to one rank's part of a step: chunks of model inputs, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from unime.backbones.packing import pack
from unime.data.labels import RightAnswers, judged_labels
from unime.errors import DataError
from unime.inputs.items import Item, Pair, item_digest, item_key
from unime.inputs.padding import Sample
from unime.models.features.frozen import Media, set_apart
from unime.models.item_processor import ItemProcessor
from unime.runtime.workers import named
from unime.training.chunks import Batch, ChunkLimits

if TYPE_CHECKING:
    from unime.data.datasets import TextRow

T = TypeVar("T")
NOT_VERIFIED = (
    "; data.verify_images=true finds such rows before training, and data.on_bad_row=drop leaves"
    " them out"
)


class Collator:
    """Rows to a batch.

    Attributes:
        limits: of the batch's chunks; may change between two batches.
        advice: what a row that cannot be prepared is told beside its fault.
        apart: whether what items show is kept apart from their chunks, so that a frozen vision
            tower sees it once a step (`Encoder.reuses_features`).
    """

    advice = ""

    def __init__(
        self, item_processor: ItemProcessor, limits: ChunkLimits, apart: bool = False
    ) -> None:
        self.item_processor = item_processor
        self.limits = limits
        self.apart = apart

    def _batch(
        self, groups: Mapping[str, tuple[Sequence[Item], Sequence[str]]], row_ids: list[str]
    ) -> Batch:
        """The groups' items (each with the id of its row) in chunks, equal ones once; labels are
        still missing."""
        samples: list[Sample] = []
        cuts: list[int] = []  # of each sample's texts
        distinct: dict[str, list[int]] = {}  # those that a group is the first to have
        number_of: dict[bytes, int] = {}
        numbers: list[int] = []  # which sample each item of all groups is
        for group, (items, item_rows) in groups.items():
            distinct[group] = []
            for item, row_id in zip(items, item_rows, strict=True):
                key = self._in_row(row_id, item_digest, item)
                if key not in number_of:
                    number_of[key] = len(samples)
                    distinct[group].append(len(samples))
                    cut_before = self.item_processor.num_truncated
                    samples.append(self._in_row(row_id, self.item_processor, item))
                    cuts.append(self.item_processor.num_truncated - cut_before)
                numbers.append(number_of[key])
        media = Media()
        if self.apart:
            samples, media = set_apart(samples)
        lengths = {
            group: [len(samples[n]["input_ids"]) for n in of] for group, of in distinct.items()
        }
        chunks: list[list[dict[str, Tensor]]] = []
        encoded: list[int] = []  # the sample of each row of the chunks
        for planned in self.limits.plan(lengths):
            chunks.append([])
            for group, chosen in planned.items():
                of_part = [distinct[group][place] for place in chosen]
                for places, part in self._parts([samples[n] for n in of_part]):
                    chunks[-1].append(part)
                    encoded += [of_part[place] for place in places]
        row_of = {sample: row for row, sample in enumerate(encoded)}
        order = [row_of[sample] for sample in numbers]
        return Batch(
            chunks=chunks,
            groups={group: len(items) for group, (items, _) in groups.items()},
            labels={},
            row_ids=row_ids,
            media=media,
            order=None if order == list(range(len(order))) else torch.tensor(order),
            num_truncated=sum(cuts[sample] for sample in numbers),
        )

    def _parts(self, samples: list[Sample]) -> list[tuple[list[int], dict[str, Tensor]]]:
        if self.limits.packed:
            return [(list(range(len(samples))), pack(samples))]
        return self.item_processor.parts(samples)

    def _in_row(self, row_id: str, prepare: Callable[[Item], T], item: Item) -> T:
        try:
            return prepare(item)
        except Exception as error:  # whatever a processor raises
            raise DataError(f"{named(f'row {row_id}', error)}{self.advice}") from error


class TextCollator(Collator):
    """Stage 1: texts and their teacher's embeddings."""

    def __call__(self, rows: Sequence[TextRow]) -> Batch:
        row_ids = [row.row_id for row in rows]
        batch = self._batch({"text": ([Item(text=row.text) for row in rows], row_ids)}, row_ids)
        batch.labels = {"teacher": torch.stack([row.teacher for row in rows])}  # (B, T)
        return batch


class PairCollator(Collator):
    """Stage 2: B queries; their B targets, then every explicit negative (n of them).

    Args:
        verified: whether the rows were looked at before training (``data.verify_images``).
        apart: see :class:`Collator`.
        scored: whether the loss asks for a judge's scores.
        right: what all rows of the data say; None: what a batch says is all.
    """

    def __init__(
        self,
        item_processor: ItemProcessor,
        limits: ChunkLimits,
        verified: bool = True,
        apart: bool = False,
        scored: bool = False,
        right: RightAnswers | None = None,
    ) -> None:
        super().__init__(item_processor, limits, apart)
        self.scored, self.right = scored, right
        self.advice = "" if verified else NOT_VERIFIED

    def __call__(self, pairs: Sequence[Pair]) -> Batch:
        row_ids = [pair.row_id for pair in pairs]
        queries = [pair.query for pair in pairs]
        targets = [pair.target for pair in pairs]
        target_rows = list(row_ids)
        for pair in pairs:
            targets += pair.negatives
            target_rows += [pair.row_id] * len(pair.negatives)
        groups = {"query": (queries, row_ids), "target": (targets, target_rows)}
        batch = self._batch(groups, row_ids)
        query_keys, target_keys = (list(map(item_key, own)) for own in (queries, targets))
        batch.labels = {
            "target_key": torch.tensor(target_keys),  # (B + n,)
            "query_key": torch.tensor(query_keys),  # (B,)
            "is_positive": torch.arange(len(targets)) < len(pairs),  # (B + n,)
        }
        if self.scored:
            batch.labels |= judged_labels(pairs)
        if self.right:
            batch.labels |= self.right.labels(
                dict(zip(query_keys, queries, strict=True)),
                dict(zip(target_keys, targets, strict=True)),
            )
        return batch
