"""Stage 2's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from unime.config import HardNegativeLossConfig
from unime.losses.hard_negatives import hard_negative_loss
from unime.losses.negatives import Negatives, is_first
from unime.losses.output import LossOutput
from unime.losses.statistics import spread


def instruction_loss(
    embeddings: dict[str, Tensor],
    labels: dict[str, Tensor],
    config: HardNegativeLossConfig,
    step: int | None = None,
) -> LossOutput:
    """Stage 2's loss over the global batch: each query against all targets, and with ``symmetric``
    each positive target against all queries (the mean of the two).

    Args:
        embeddings: "query" (Q, D) and "target" (C, D).
        labels: "query_key" (Q,) and "target_key" (C,), equal exactly for items of equal text and
            image content; "is_positive" (C,), True for Q targets, in the order of their queries.
        step: optimizer steps taken so far, see :func:`hard_negative_loss`.
    """
    queries, targets = embeddings["query"], embeddings["target"]
    query_key, target_key = labels["query_key"], labels["target_key"]
    positive_index = labels["is_positive"].nonzero()[:, 0]  # (Q,)
    if len(positive_index) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positive_index)} positives")
    positive_key = target_key[positive_index]  # (Q,)
    is_negative = Negatives(query_key, positive_key, target_key)
    output = hard_negative_loss(queries, targets, positive_index, is_negative, config, step)
    sides = {"query": queries[is_first(query_key)], "target": targets[is_first(target_key)]}
    stats = output.stats | spread(sides)
    if not config.symmetric:
        return LossOutput(output.loss, stats)
    is_negative = Negatives(positive_key, query_key, query_key)
    own = torch.arange(len(queries), device=queries.device)
    reverse = hard_negative_loss(targets[positive_index], queries, own, is_negative, config, step)
    stats |= {f"reverse_{name}": value for name, value in reverse.stats.items()}
    return LossOutput((output.loss + reverse.loss) / 2, stats)
