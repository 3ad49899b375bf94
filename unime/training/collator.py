"""Rows of both stages to one rank's part of a step: chunks of model inputs, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unime.errors import DataError
from unime.inputs.items import Item, Pair, item_key
from unime.inputs.padding import Sample
from unime.models.item_processor import ItemProcessor
from unime.runtime.workers import named
from unime.training.chunks import Batch, ChunkLimits

if TYPE_CHECKING:
    from unime.data.datasets import TextRow

NOT_VERIFIED = (
    "; data.verify_images=true finds such rows before training, and data.on_bad_row=drop leaves"
    " them out"
)


class Collator:
    """Rows to a batch.

    Attributes:
        limits: of the batch's chunks; may change between two batches.
        advice: what a row that cannot be prepared is told beside its fault.
    """

    advice = ""

    def __init__(self, item_processor: ItemProcessor, limits: ChunkLimits) -> None:
        self.item_processor = item_processor
        self.limits = limits

    def _batch(
        self, groups: Mapping[str, tuple[Sequence[Item], Sequence[str]]], row_ids: list[str]
    ) -> Batch:
        """The groups' items (each with the id of its row) in chunks; labels are still missing."""
        truncated = self.item_processor.num_truncated
        samples: dict[str, list[Sample]] = {}
        for group, (items, item_rows) in groups.items():
            samples[group] = []
            for item, row_id in zip(items, item_rows, strict=True):
                try:
                    samples[group].append(self.item_processor(item))
                except Exception as error:  # whatever a processor raises
                    told = named(f"row {row_id}", error)
                    raise DataError(f"{told}{self.advice}") from error
        lengths = {group: [len(s["input_ids"]) for s in of] for group, of in samples.items()}
        plan = self.limits.plan(lengths)
        first, start = {}, 0  # the first row of each group
        for group, of in samples.items():
            first[group], start = start, start + len(of)
        chunks: list[list[dict[str, Tensor]]] = []
        rows: list[int] = []
        for planned in plan:
            chunks.append([])
            for group, chosen in planned.items():
                together = [samples[group][item] for item in chosen]
                for places, part in self.item_processor.parts(together):
                    chunks[-1].append(part)
                    rows += [first[group] + chosen[place] for place in places]
        return Batch(
            chunks=chunks,
            groups={group: len(of) for group, of in samples.items()},
            labels={},
            row_ids=row_ids,
            order=None if rows == sorted(rows) else torch.tensor(rows).argsort(),
            num_truncated=self.item_processor.num_truncated - truncated,
        )


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
    """

    def __init__(
        self, item_processor: ItemProcessor, limits: ChunkLimits, verified: bool = True
    ) -> None:
        super().__init__(item_processor, limits)
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
        batch.labels = {
            "target_key": torch.tensor([item_key(item) for item in targets]),  # (B + n,)
            "query_key": torch.tensor([item_key(item) for item in queries]),  # (B,)
            "is_positive": torch.arange(len(targets)) < len(pairs),  # (B + n,)
        }
        return batch
