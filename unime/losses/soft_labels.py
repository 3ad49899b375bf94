"""What a judge finds of a query's own candidates, as a distribution instead of one right answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def soft_label_loss(
    queries: Tensor,
    targets: Tensor,
    own_query: Tensor,
    score: Tensor,
    temperature: float,
    judge_temperature: float,
) -> Tensor:
    """Half of KL(P ‖ Q) + KL(Q ‖ P), the mean over queries, between the softmaxes of a judge's
    scores and of the similarities, over a query's positive and its own negatives (UniME-V2,
    arXiv 2510.13515, distribution alignment).

    Args:
        queries: unit-norm (Q, D).
        targets: unit-norm (C, D); each is of one query, every query has one at least.
        own_query: which (C,).
        score: of the judge for that query (C,).
        temperature, judge_temperature: divide similarities and scores.
    """
    order = own_query.argsort(stable=True)
    rows = own_query[order]
    counts = rows.bincount(minlength=len(queries))  # (Q,)
    first = counts.cumsum(0) - counts
    columns = torch.arange(len(rows), device=rows.device) - first[rows]
    empty = queries.new_full((len(queries), int(counts.max())), -math.inf)
    similarity = (queries[rows] * targets[order]).sum(dim=1)  # (C,)
    found = empty.index_put((rows, columns), similarity / temperature).log_softmax(dim=1)
    judged = score[order].to(similarity) / judge_temperature
    wanted = empty.index_put((rows, columns), judged).log_softmax(dim=1)
    difference = (wanted - found).masked_fill(wanted.isneginf(), 0)
    return ((wanted.exp() - found.exp()) * difference).sum() / (2 * len(queries))
