"""InfoNCE over the hardest negatives that a filter takes for true ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import HardNegativeLossConfig, OnShort
from unime.losses.blocks import Numbers, Similarities
from unime.losses.matryoshka import over_sizes, truncated
from unime.losses.negatives import Negatives
from unime.losses.output import LossOutput

LEVEL_ROUNDING = 1e-3  # equal similarities cost ln(1 + k) to rounding, which must not decide


def hard_negative_loss(
    queries: Tensor,
    candidates: Tensor,
    positive_index: Tensor,
    is_negative: Negatives | Tensor,
    config: HardNegativeLossConfig,
    step: int | None = None,
    temperature: Tensor | None = None,
) -> LossOutput:
    """InfoNCE over the positive and the k hardest negatives that survive the false-negative filter
    (paper 3.3, equations 3 and 4), or over all negatives until hard ones may begin; at every size
    of ``matryoshka_dimensions``.

    A negative more similar to the query than ``positive + false_negative_margin`` is taken for a
    false one and dropped; of the rest the ``num_hard_negatives`` most similar stay. What was
    dropped never comes back: with fewer than k left the empty places are masked, or
    (``on_short: repeat``, the paper's way) filled by repeating those that are left, hardest first.
    With none left the loss of that query is exactly zero. Each size has its own hardest negatives
    and its own filter; whether hard ones have begun is decided by the whole vector.

    With ``hardness_strength`` alpha each negative counts exp(alpha · cosine) times, a weight that
    passes on no gradient (LLaVE, arXiv 2503.04812, equation 5; EmbeddingGemma, arXiv 2509.20354).

    Args:
        queries: unit-norm (Q, D).
        candidates: unit-norm (C, D); positives, explicit negatives, everything in the pool.
        positive_index: the row of `candidates` that is right for each query (Q,).
        is_negative: which candidates may serve as a query's negatives (Q, C); of equal ones at most
            one, and no right answer (:class:`Negatives`).
        step: optimizer steps taken so far; None: long after ``hard_negatives_after``.
        temperature: one that is learnt (a scalar with a graph) instead of the settings'.
    """
    begun = _hard_negatives_begun(config, step)

    def of_size(size: int, memory: float) -> LossOutput:
        nonlocal begun
        rows, value = at_temperature(truncated(queries, size), config, temperature)
        columns = truncated(candidates, size)
        similarities = Similarities(rows, columns, memory)
        output = _loss(similarities, positive_index, is_negative, config, value, begun)
        if begun is None:
            begun = bool(output.stats["hard_negatives"])
        return output

    return over_sizes(queries.shape[1], config, of_size)


def at_temperature(
    queries: Tensor, config: HardNegativeLossConfig, temperature: Tensor | None
) -> tuple[Tensor, float]:
    """Embeddings (N, D), and what their similarities are divided by. One that is learnt gets its
    gradient through them: they are what they were, times 1."""
    if temperature is None:
        return queries, config.temperature
    value = float(temperature.detach())
    return queries * (value / temperature), value


def _loss(
    similarities: Similarities,
    positive_index: Tensor,
    is_negative: Negatives | Tensor,
    config: HardNegativeLossConfig,
    temperature: float,
    begun: bool | None,
) -> LossOutput:
    """At one size.

    Args:
        begun: whether hard negatives have; None: this batch decides.
    """

    def total(k: int | None, margin: float | None) -> tuple[Tensor, Numbers]:
        def of_block(place: slice, similarity: Tensor) -> tuple[Tensor, Numbers]:
            positive = similarity.gather(1, positive_index[place][:, None])  # (B, 1)
            may = is_negative[place]  # (B, C)
            with torch.no_grad():
                is_false = false_negatives(similarity, positive, may, margin)
            negatives = _hardest(similarity, may & ~is_false, k, config.on_short)  # (B, k)
            numbers = _numbers(positive, negatives, may, is_false, config)
            loss = _info_nce(positive, negatives, temperature, config.hardness_strength)
            return loss, numbers

        return similarities.total(of_block)

    with torch.set_grad_enabled(torch.is_grad_enabled() and begun is not False):
        loss, sums = total(config.num_hard_negatives, config.false_negative_margin)
    hard = loss.detach()
    if begun is None:  # above the level of a collapsed model, collapse lies downhill
        begun = bool(hard < (1 - LEVEL_ROUNDING) * sums["level"])
    if not begun:  # all count, and none is taken for false
        del loss, sums  # and with them two gradients
        loss, sums = total(None, None)
    count = len(positive_index)
    stats = _stats(sums, count) | {
        "hard_negative_loss": hard / count,
        "hard_negatives": hard.new_tensor(float(begun)),
    }
    return LossOutput(loss / count, stats)


def _info_nce(
    positive: Tensor, negatives: Tensor, temperature: float, hardness_strength: float
) -> Tensor:
    """The sum over queries, of similarities (B, 1) and (B, N), -inf where there is none."""
    logits = torch.cat([positive, negatives], dim=1) / temperature  # (B, 1 + N)
    if hardness_strength:
        weights = hardness_strength * negatives.detach()  # logarithms
        logits = torch.cat([logits[:, :1], logits[:, 1:] + weights], dim=1)
    right = logits.new_zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, right, reduction="sum")


def _hard_negatives_begun(config: HardNegativeLossConfig, step: int | None) -> bool | None:
    """Whether a batch at this step is past ``hard_negatives_after``; None, with ``auto``: where its
    hard negatives cost less than they would in a collapsed model, in which all similarities are
    equal, ln(1 + k) where none is weighted."""
    after = config.hard_negatives_after
    if config.num_hard_negatives is None or after == 0 or step is None:
        return True
    return None if after == "auto" else step >= int(after)


def false_negatives(
    similarity: Tensor, positive: Tensor, is_negative: Tensor, margin: float | None
) -> Tensor:
    """Negatives that the filter takes for false: more similar than ``positive + margin`` (Q, C).

    Args:
        similarity: of queries and candidates (Q, C).
        positive: of queries and their positives (Q, 1).
        is_negative: which candidates may be negatives at all (Q, C).
        margin: beta; None: no filter.
    """
    if margin is None:
        return torch.zeros_like(is_negative)
    return is_negative & (similarity > positive + margin)


def _hardest(similarity: Tensor, eligible: Tensor, k: int | None, on_short: OnShort) -> Tensor:
    """The similarities of the k most similar eligible candidates (B, k), -inf in a place that is
    not filled; with null those of all (B, C)."""
    if k is None:
        return similarity.masked_fill(~eligible, float("-inf"))
    with torch.no_grad():
        masked = similarity.masked_fill(~eligible, float("-inf"))
        top = masked.topk(min(k, similarity.shape[1]))
        index, kept = top.indices, top.values > float("-inf")
        if on_short is OnShort.repeat:
            left = kept.sum(dim=1, keepdim=True)  # (B, 1); topk puts the filled places first
            places = torch.arange(k, device=similarity.device) % left.clamp(min=1)  # (B, k)
            index, kept = index.gather(1, places), (left > 0).expand(-1, k)
    return similarity.gather(1, index).masked_fill(~kept, float("-inf"))


@torch.no_grad()
def _numbers(
    positive: Tensor,
    negatives: Tensor,
    is_negative: Tensor,
    is_false: Tensor,
    config: HardNegativeLossConfig,
) -> Numbers:
    """What `_stats` are made of, added up over a block.

    Args:
        positive, negatives: similarities (B, 1) and (B, k).
        is_negative, is_false: of these the filter drops those (B, C).
    """
    count, false = is_negative.sum(dim=1), is_false.sum(dim=1)  # (B,)
    hardest = negatives.amax(dim=1)  # (B,); -inf: no negative left
    some = torch.isfinite(hardest)
    filled = negatives.isfinite().sum(dim=1)  # (B,)
    return {
        # what these cost in a collapsed model, in which all similarities are 1
        "level": filled.double().mul(math.exp(config.hardness_strength)).log1p().sum(),
        "positive": positive.sum(dtype=torch.double),
        "hardest": hardest[some].sum(dtype=torch.double),
        "right": ((positive[:, 0] > hardest) & some).sum(),
        "some": some.sum(),
        "negatives": count.sum(),
        "filtered": false.sum(),
        "filtered_queries": (false > 0).sum(),
        "short_queries": (count - false < (config.num_hard_negatives or 0)).sum(),
    }


def _stats(sums: Numbers, queries: int) -> dict[str, Tensor]:
    return {
        "positive_similarity": sums["positive"] / queries,
        # of the queries that have a negative; NaN, which is not logged, where none has
        "hardest_negative_similarity": sums["hardest"] / sums["some"],
        "accuracy": sums["right"] / sums["some"],
        "distinct_negatives": sums["negatives"] / queries,
        "filtered_share": sums["filtered"] / sums["negatives"].clamp(min=1),
        "filtered_queries": sums["filtered_queries"] / queries,
        "short_queries": sums["short_queries"],
        "empty_queries": queries - sums["some"],
    }
