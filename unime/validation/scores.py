"""What rows that are held out of training are measured by: hit@1, and the loss of the stage."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unime.data.datasets import PairDataset, TextDataset
from unime.data.labels import RightAnswers, judged_labels
from unime.inputs.items import Item, item_key
from unime.losses import LossFunction, Negatives, spread
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.encoding import DistinctItems, distinct_items, encode
from unime.validation.measure import CHANCE, HIT, LOSS, Leave, Scores

BLOCK = 1024  # rows of similarities at a time


class HeldItems:
    """Items that are measured again and again: told apart once."""

    def __init__(self, items: Sequence[Item], batch_size: int) -> None:
        self._items, self._batch_size = items, batch_size
        self._distinct: DistinctItems | None = None

    def embed(self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Leave) -> Tensor:
        """(N, D), on every rank."""
        if self._distinct is None:
            self._distinct = distinct_items(accelerator, self._items)
        distinct = self._distinct
        embeddings = torch.empty(len(distinct.items), embedder.dimension)
        rounds = encode(
            accelerator, embedder, distinct.items, self._batch_size, description="validation"
        )
        for encoded in rounds:
            embeddings[encoded.places] = encoded.embeddings
            leave()
        return embeddings[distinct.index]


class HeldOutTexts:
    """Stage 1: how often a text's nearest neighbour among the held-out texts is the teacher's, and
    the loss of batches of them.

    Args:
        batch_rows: rows of a batch of the loss, as near as equal batches come to it.
        chunk_size: texts encoded at a time.
    """

    def __init__(
        self, rows: TextDataset, loss_fn: LossFunction, batch_rows: int, chunk_size: int
    ) -> None:
        self._held = HeldItems([Item(text=text) for text in rows.texts], chunk_size)
        self._teacher = torch.stack([row.teacher for row in rows])  # (N, T)
        self._first = first_of_each(rows.texts)
        blocks = torch.arange(len(rows)).view(-1, rows.texts_per_row)
        self._batches = [
            torch.cat(list(part))
            for part in _equal_parts(list(blocks), batch_rows // blocks.shape[1])
        ]
        self._loss_fn = loss_fn

    def __call__(self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Leave) -> Scores:
        embeddings = self._held.embed(accelerator, embedder, leave)
        losses = [
            self._loss_fn({"text": embeddings[rows]}, {"teacher": self._teacher[rows]}).loss.item()
            for rows in self._batches
        ]
        student, teacher = embeddings[self._first], self._teacher[self._first]
        found = [
            _agreement(student[start : start + BLOCK], student, teacher, start)
            for start in range(0, len(student), BLOCK)
        ]
        return _scores(found, losses, self._batches) | numbers(spread({"text": student}))


def _agreement(
    block: Tensor, student: Tensor, teacher: Tensor, start: int
) -> tuple[Tensor, Tensor]:
    """Whether each row's nearest other row is the teacher's, and by chance (n,)."""
    own = torch.arange(len(block))
    right = teacher[start : start + len(block)] @ teacher.T  # (n, N)
    right[own, start + own] = -math.inf
    found = block @ student.T
    found[own, start + own] = -math.inf
    is_right = right == right.amax(dim=1, keepdim=True)
    return hit_share(found, is_right), is_right.sum(dim=1) / max(1, len(student) - 1)


class HeldOutPairs:
    """Stage 2: how often the most similar of a task's held-out targets is a right one, and the loss
    of batches of its rows.

    Args:
        batch_rows, chunk_size: as :class:`HeldOutTexts` has them.
        right: what all rows of the data say.
    """

    def __init__(
        self,
        rows: PairDataset,
        loss_fn: LossFunction,
        batch_rows: int,
        chunk_size: int,
        right: RightAnswers,
    ) -> None:
        pairs = list(rows)
        items = [pair.query for pair in pairs]
        self._owner = list(range(len(pairs)))  # the row of each target
        items += [pair.target for pair in pairs]
        for place, pair in enumerate(pairs):
            items += pair.negatives
            self._owner += [place] * len(pair.negatives)
        self._pairs = pairs
        self._are_judged = all(pair.scores for pair in pairs)
        self._held = HeldItems(items, chunk_size)
        keys = list(map(item_key, items))
        known = list(zip(keys, items, strict=True))
        self._known = right.labels(dict(known[: len(pairs)]), dict(known[len(pairs) :]))
        self._query_key, self._target_key = torch.tensor(keys).tensor_split([len(pairs)])
        self._first_queries, self._first_targets = (
            first_of_each(own.tolist()) for own in (self._query_key, self._target_key)
        )
        self._tasks, start = {}, 0
        for task, size in rows.task_sizes.items():
            self._tasks[task] = list(range(start, start + size))
            start += size
        self._batches = [
            part for own in self._tasks.values() for part in _equal_parts(own, batch_rows)
        ]
        self._loss_fn = loss_fn

    def __call__(self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Leave) -> Scores:
        embeddings = self._held.embed(accelerator, embedder, leave)
        queries, targets = embeddings.tensor_split([len(self._query_key)])
        losses = [self._loss(queries, targets, rows) for rows in self._batches]
        found = {task: self._hits(queries, targets, rows) for task, rows in self._tasks.items()}
        scores = _scores(found.values(), losses, self._batches)
        sides = {"query": queries[self._first_queries], "target": targets[self._first_targets]}
        of_tasks = {f"{HIT}/{task}": own.mean().item() for task, (own, _) in found.items()}
        return scores | of_tasks | numbers(spread(sides))

    def _of(self, rows: list[int]) -> Tensor:
        """The targets of some rows, the right ones first, in the order of the rows."""
        chosen = set(rows)
        others = range(len(self._query_key), len(self._owner))
        return torch.tensor([*rows, *(n for n in others if self._owner[n] in chosen)])

    def _loss(self, queries: Tensor, targets: Tensor, rows: list[int]) -> float:
        own = self._of(rows)
        labels = {
            "target_key": self._target_key[own],
            "is_positive": torch.arange(len(own)) < len(rows),
            "query_key": self._query_key[rows],
        }
        if self._are_judged:
            labels |= judged_labels([self._pairs[row] for row in rows])
        labels |= self._known
        return self._loss_fn({"query": queries[rows], "target": targets[own]}, labels).loss.item()

    def _hits(self, queries: Tensor, targets: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Of each row of a task, and by chance (n,)."""
        own = self._of(rows)
        own = own[first_of_each(self._target_key[own].tolist())]  # different targets (C,)
        asked, offered = self._query_key[rows], self._target_key[own]
        wrong = Negatives(asked, self._target_key[rows], offered, **self._known)
        different = targets[own]  # (C, D)
        hits, chances = [], []
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            is_right = ~wrong[block]  # (n, C)
            hits.append(hit_share(queries[rows[block]] @ different.T, is_right))
            chances.append(is_right.sum(dim=1) / len(own))
        return torch.cat(hits), torch.cat(chances)


def first_of_each(keys: Sequence[Hashable]) -> list[int]:
    """Where each key comes for the first time."""
    first: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return list(first.values())


def numbers(stats: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in stats.items()}


def hit_share(scores: Tensor, is_right: Tensor) -> Tensor:
    """hit@1 of each row (n,): the share of right ones among those that score highest, which is 1 or
    0 but for equal scores.

    Args:
        scores: (n, C).
        is_right: (n, C).
    """
    best = scores == scores.amax(dim=1, keepdim=True)
    return (best & is_right).sum(dim=1) / best.sum(dim=1)


def _equal_parts(rows: list[Any], size: int) -> list[list[Any]]:
    """Neighbouring rows in parts of at least `size`, or all of them in one."""
    count = max(1, len(rows) // max(1, size))
    ends = [len(rows) * part // count for part in range(count + 1)]
    return [rows[first:last] for first, last in zip(ends, ends[1:], strict=False)]


def _scores(
    found: Iterable[tuple[Tensor, Tensor]],
    losses: Sequence[float],
    batches: Sequence[Sequence[int] | Tensor],
) -> Scores:
    """Means over all rows: of their hits and chances in parts, and of the losses of batches."""
    hits, chances = (torch.cat(parts).mean().item() for parts in zip(*found, strict=True))
    sizes = [len(rows) for rows in batches]
    loss = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    return {HIT: hits, CHANCE: chances, LOSS: loss}
