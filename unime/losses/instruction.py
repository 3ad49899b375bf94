"""Stage 2's loss."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from unime.config import HardNegativeLossConfig
from unime.losses.hard_negatives import at_temperature, hard_negative_loss
from unime.losses.matryoshka import over_sizes, truncated
from unime.losses.negatives import Negatives, is_first
from unime.losses.output import LossOutput
from unime.losses.soft_labels import soft_label_loss
from unime.losses.statistics import spread


def instruction_loss(
    embeddings: dict[str, Tensor],
    labels: dict[str, Tensor],
    config: HardNegativeLossConfig,
    step: int | None = None,
    temperature: Tensor | None = None,
) -> LossOutput:
    """Stage 2's loss over the global batch: each query against all targets, and with ``symmetric``
    each positive target against all queries (the mean of the two); with ``soft_labels`` that share
    of it is after a judge's scores (:func:`soft_label_loss`).

    Args:
        embeddings: "query" (Q, D) and "target" (C, D).
        labels: "query_key" (Q,) and "target_key" (C,), equal exactly for items of equal text and
            image content; "is_positive" (C,), True for Q targets, in the order of their queries.
            Where more is known to be right than the batch says "asked" (M, 2) and "named" (K, 2),
            as :class:`Negatives` has them.
            With ``soft_labels`` "score" (C,), of a judge for the row that a target is of, and
            "own_query" (C,), that row's number less how many positives stand up to the target.
        step, temperature: see :func:`hard_negative_loss`.
    """
    queries, targets = embeddings["query"], embeddings["target"]
    query_key, target_key = labels["query_key"], labels["target_key"]
    positive_index = labels["is_positive"].nonzero()[:, 0]  # (Q,)
    if len(positive_index) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positive_index)} positives")
    positive_key = target_key[positive_index]  # (Q,)
    asked, named = labels.get("asked"), labels.get("named")
    is_negative = Negatives(query_key, positive_key, target_key, asked, named)
    loss_of = partial(hard_negative_loss, config=config, step=step, temperature=temperature)
    output = loss_of(queries, targets, positive_index, is_negative)
    sides = {"query": queries[is_first(query_key)], "target": targets[is_first(target_key)]}
    stats = output.stats | spread(sides)
    if temperature is not None:
        stats["temperature"] = temperature.detach()
    loss = output.loss
    if config.symmetric:
        is_negative = Negatives(positive_key, query_key, query_key, named, asked)
        own = torch.arange(len(queries), device=queries.device)
        reverse = loss_of(targets[positive_index], queries, own, is_negative)
        stats |= {f"reverse_{name}": value for name, value in reverse.stats.items()}
        loss = (loss + reverse.loss) / 2
    if config.soft_labels:
        soft = _after_the_judge(queries, targets, labels, config, temperature)
        stats |= {"soft_label_loss": soft.detach(), "hard_label_loss": loss.detach()}
        loss = torch.lerp(loss, soft, config.soft_labels)
    return LossOutput(loss, stats)


def _after_the_judge(
    queries: Tensor,
    targets: Tensor,
    labels: dict[str, Tensor],
    config: HardNegativeLossConfig,
    temperature: Tensor | None,
) -> Tensor:
    """The loss of soft labels, over all sizes."""
    own_query = labels["is_positive"].cumsum(0) + labels["own_query"]  # (C,)

    def of_size(size: int, _: float) -> LossOutput:
        asked, value = at_temperature(truncated(queries, size), config, temperature)
        offered, temperatures = truncated(targets, size), (value, config.judge_temperature)
        loss = soft_label_loss(asked, offered, own_query, labels["score"], *temperatures)
        return LossOutput(loss, {})

    return over_sizes(queries.shape[1], config, of_size).loss
