"""Rules that take pairs of a query and another row's target for right answers, and what each can
see: the margin embeddings, the teacher texts, perceptual hashes pictures, equality the rows.

Unlike the loss, which never counts copies and known positives as negatives, all pairs of different
rows are judged here, so that what these two rules are worth is seen beside the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eval.demo.filter import MarkedPairs
from unime.inputs.items import Item, item_key
from unime.mining.near_duplicates import perceptual_hashes

BETAS = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)
COSINES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the teacher
BITS = (4, 8, 12)  # of 64 in which hashes differ
FAR = 64
TEACHER, PICTURES = 0.9, 8  # in unions
Texts = Callable[[list[str]], np.ndarray]  # to unit rows (N, T)


@dataclass(frozen=True)
class Seen:
    """What rules know of a batch: all are (B, B), a row a query, a column a row's target.

    Attributes:
        others: pairs of different rows.
        right: of these, targets that are right for the query: the truth.
        over: by how much a target is more similar to the query than its own.
        copies, known: targets equal to the own one; targets that some row gives for an equal query.
        teacher: the teacher's cosine of what the rows say, -1 where it has nothing to read.
        bits: in how many bits the rows' pictures differ, 64 where there are none to compare.
    """

    others: Tensor
    right: Tensor
    over: Tensor
    copies: Tensor
    known: Tensor
    teacher: Tensor
    bits: Tensor


def look_at(batch: MarkedPairs, teacher: Texts, max_pixels: int) -> Seen:
    """Everything about a batch but what a model says of it."""
    sides = batch.queries, batch.targets
    asked, offered = (torch.tensor([*map(item_key, side)]) for side in sides)
    others = ~torch.eye(len(asked), dtype=torch.bool)
    copies = offered[:, None] == offered
    equal_queries = asked[:, None] == asked  # (B, B): of rows
    known = (equal_queries.float() @ copies.float()) > 0
    answers = np.unique(batch.answers, return_inverse=True)[1]
    right = torch.from_numpy(answers[:, None] == answers)
    unseen = torch.zeros(others.shape)
    by_teacher, by_looks = _by_teacher(batch, teacher), _by_looks(batch, max_pixels)
    return Seen(others, right & others, unseen, copies, known, by_teacher, by_looks)


def embedded(seen: Seen, queries: Tensor, targets: Tensor) -> Seen:
    """With a model's embeddings of the batch (B, D)."""
    similarity = queries @ targets.T
    return replace(seen, over=similarity - similarity.diag()[:, None])


def not_known(seen: Seen) -> Seen:
    """Only the pairs that the loss may take for negatives: no copies and no known positives."""
    left = seen.others & ~seen.copies & ~seen.known
    return replace(seen, others=left, right=seen.right & left)


def _by_teacher(batch: MarkedPairs, teacher: Texts) -> Tensor:
    """Of the targets' texts; where they say nothing, of the queries': rows that ask for the same
    have answers that are right for each other."""
    for side in (batch.targets, batch.queries):
        texts = without_common_start([item.text for item in side])
        if len(set(texts)) > 1:
            rows = torch.from_numpy(teacher(texts)).float()
            return rows @ rows.T
    return torch.full((len(batch.queries),) * 2, -1.0)


def without_common_start(texts: Sequence[str]) -> list[str]:
    """What is left of texts without the words that all begin with, which is their instruction."""
    start = os.path.commonprefix([*texts])
    cut = len(start) if len(set(texts)) == 1 else start.rfind(" ") + 1
    return [text[cut:].strip() for text in texts]


def _by_looks(batch: MarkedPairs, max_pixels: int) -> Tensor:
    """The fewest bits between two rows' targets of equal text, or their queries of equal text."""
    fewest = torch.full((len(batch.queries),) * 2, FAR)
    for side in (batch.targets, batch.queries):
        if all(len(item.images) == 1 for item in side):
            fewest = torch.minimum(fewest, _apart(side, max_pixels))
    return fewest


def _apart(items: Sequence[Item], max_pixels: int) -> Tensor:
    found = perceptual_hashes([item.images[0] for item in items], max_pixels)
    bits = np.array([hash_ or 0 for hash_ in found], dtype=np.uint64)
    apart = np.bitwise_count(bits[:, None] ^ bits).astype(np.int64)
    texts = np.unique([item.text for item in items], return_inverse=True)[1]
    flat = np.array([hash_ is None for hash_ in found])
    apart[(texts[:, None] != texts) | flat[:, None] | flat] = FAR
    return torch.from_numpy(apart)


@dataclass(frozen=True)
class Rule:
    """One of a family of rules, which differ by a number."""

    family: str
    value: float | None
    drops: Callable[[Seen], Tensor]


def rules() -> Iterator[Rule]:
    """All that are judged; the unions at every beta."""
    yield Rule("exact duplicates", None, lambda seen: seen.copies)
    yield Rule("known positives", None, lambda seen: seen.known)
    for bits in BITS:
        yield Rule("near-duplicate pictures", bits, partial(_look_alike, bits))
    for cosine in COSINES:
        yield Rule("teacher", cosine, partial(_say_alike, cosine))
    for beta in BETAS:
        for name in UNIONS:
            yield Rule(name, beta, partial(_in_union, beta, name))


def _look_alike(bits: int, seen: Seen) -> Tensor:
    return seen.bits <= bits


def _say_alike(cosine: float, seen: Seen) -> Tensor:
    return seen.teacher > cosine


def _in_union(beta: float, name: str, seen: Seen) -> Tensor:
    return (seen.over > beta) | UNIONS[name](seen)


UNIONS: dict[str, Callable[[Seen], Tensor]] = {
    "margin": lambda seen: torch.zeros_like(seen.others),
    "margin or known": lambda seen: seen.copies | seen.known,
    "margin or teacher": lambda seen: seen.teacher > TEACHER,
    "margin or pictures": lambda seen: seen.bits <= PICTURES,
    "margin or any": lambda seen: (
        seen.copies | seen.known | (seen.teacher > TEACHER) | (seen.bits <= PICTURES)
    ),
}


def counted(seen: Seen, rule: Rule) -> Tensor:
    """Pairs, false negatives, dropped ones and both (4,)."""
    dropped = rule.drops(seen) & seen.others
    parts = (seen.others, seen.right, dropped, dropped & seen.right)
    return torch.stack([part.sum() for part in parts])
