"""Both losses as they were before they ran in blocks: every matrix N x N, all of it autograd's.
What tests/test_loss_blocks.py and benchmarks/loss.py hold the blocks against."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import DistillationLossConfig, HardNegativeLossConfig, OnShort
from unime.losses import LossOutput, spread
from unime.losses.hard_negatives import LEVEL_ROUNDING


def distillation_loss(
    student: Tensor, teacher: Tensor, config: DistillationLossConfig
) -> LossOutput:
    """Stage 1's."""
    rows = len(student)
    least = 2 if config.include_diagonal else 3
    if rows < least or len(teacher) != rows:
        raise ValueError(f"distillation needs at least {least} rows, got {rows} and {len(teacher)}")
    student_similarity = student @ student.T  # (N, N)
    teacher_similarity = (teacher @ teacher.T).to(student_similarity.dtype)  # (N, N)
    student_others = _without_diagonal(student_similarity)  # (N, N-1)
    teacher_others = _without_diagonal(teacher_similarity)  # (N, N-1)
    if config.include_diagonal:
        student_rows, teacher_rows = student_similarity, teacher_similarity
    else:
        student_rows, teacher_rows = student_others, teacher_others
    loss = F.kl_div(
        F.log_softmax(student_rows / config.student_temperature, dim=1),
        F.log_softmax(teacher_rows / config.teacher_temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    with torch.no_grad():
        pairs = torch.stack([student_others.flatten(), teacher_others.flatten()])
        stats = {
            "teacher_correlation": torch.corrcoef(pairs)[0, 1],
            "teacher_mean_similarity": teacher_others.mean(),
        }
    return LossOutput(loss, stats | spread({"text": student}))


def _without_diagonal(matrix: Tensor) -> Tensor:
    """(N, N) without its diagonal, (N, N-1), rows in order."""
    n = len(matrix)
    return matrix.flatten()[:-1].view(n - 1, n + 1)[:, 1:].reshape(n, n - 1)


def hard_negative_loss(
    queries: Tensor,
    candidates: Tensor,
    positive_index: Tensor,
    is_negative: Tensor,
    config: HardNegativeLossConfig,
    step: int | None = None,
) -> LossOutput:
    """Stage 2's, one way."""
    similarity = queries @ candidates.T  # (Q, C)
    positive = similarity.gather(1, positive_index[:, None])  # (Q, 1)
    with torch.no_grad():
        is_false = _false_negatives(similarity, positive, is_negative, config.false_negative_margin)
        hardest, kept = _hardest(similarity, is_negative & ~is_false, config)  # (Q, k) each
    negatives = similarity.gather(1, hardest).masked_fill(~kept, float("-inf"))  # (Q, k)
    hard = _info_nce(positive, negatives, config.temperature)
    begun = _hard_negatives_begun(hard.detach(), kept, config, step)
    loss = hard
    if not begun:  # all count, and none is taken for false
        negatives = similarity.masked_fill(~is_negative, float("-inf"))  # (Q, C)
        is_false = torch.zeros_like(is_false)
        loss = _info_nce(positive, negatives, config.temperature)
    stats = _hard_negative_stats(positive, negatives, is_negative, is_false, config)
    stats |= {"hard_negative_loss": hard.detach(), "hard_negatives": loss.new_tensor(float(begun))}
    return LossOutput(loss, stats)


def _info_nce(positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    logits = torch.cat([positive, negatives], dim=1) / temperature  # (Q, 1 + N)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def _hard_negatives_begun(
    hard_loss: Tensor, kept: Tensor, config: HardNegativeLossConfig, step: int | None
) -> bool:
    after = config.hard_negatives_after
    if config.num_hard_negatives is None or after == 0 or step is None:
        return True
    if after == "auto":
        level = kept.sum(dim=1).add(1).double().log().mean()
        return bool(hard_loss < (1 - LEVEL_ROUNDING) * level)
    return step >= int(after)


def _false_negatives(
    similarity: Tensor, positive: Tensor, is_negative: Tensor, margin: float | None
) -> Tensor:
    if margin is None:
        return torch.zeros_like(is_negative)
    return is_negative & (similarity > positive + margin)


def _hardest(
    similarity: Tensor, eligible: Tensor, config: HardNegativeLossConfig
) -> tuple[Tensor, Tensor]:
    wanted = config.num_hard_negatives or similarity.shape[1]
    top = similarity.masked_fill(~eligible, float("-inf")).topk(min(wanted, similarity.shape[1]))
    kept = top.values > float("-inf")
    if config.on_short is OnShort.mask:
        return top.indices, kept
    left = kept.sum(dim=1, keepdim=True)  # (Q, 1); topk puts the filled places first
    places = torch.arange(wanted, device=similarity.device) % left.clamp(min=1)  # (Q, k)
    return top.indices.gather(1, places), (left > 0).expand(-1, wanted)


@torch.no_grad()
def _hard_negative_stats(
    positive: Tensor,
    negatives: Tensor,
    is_negative: Tensor,
    is_false: Tensor,
    config: HardNegativeLossConfig,
) -> dict[str, Tensor]:
    hardest = negatives.amax(dim=1)  # (Q,); -inf: no negative left
    some = torch.isfinite(hardest)
    left = (is_negative & ~is_false).sum(dim=1)  # (Q,)
    return {
        "positive_similarity": positive.mean(),
        # of the queries that have a negative; NaN, which is not logged, where none has
        "hardest_negative_similarity": hardest[some].sum() / some.sum(),
        "accuracy": ((positive[:, 0] > hardest) & some).sum() / some.sum(),
        "distinct_negatives": is_negative.sum(dim=1).float().mean(),
        "filtered_share": is_false.sum() / is_negative.sum().clamp(min=1),
        "filtered_queries": is_false.any(dim=1).float().mean(),
        "short_queries": (left < (config.num_hard_negatives or 0)).sum().float(),
        "empty_queries": (~some).sum().float(),
    }


def _negatives_of(query_key: Tensor, positive_key: Tensor, target_key: Tensor) -> Tensor:
    same_query = (query_key[:, None] == query_key).float()  # (Q, Q)
    gives = (positive_key[:, None] == target_key).float()  # (Q, C)
    is_right = same_query @ gives > 0  # (Q, C)
    return ~is_right & _is_first(target_key)


def _is_first(keys: Tensor) -> Tensor:
    return ~(keys[:, None] == keys).tril(-1).any(dim=1)


def instruction_loss(
    embeddings: dict[str, Tensor],
    labels: dict[str, Tensor],
    config: HardNegativeLossConfig,
    step: int | None = None,
) -> LossOutput:
    """Stage 2's."""
    queries, targets = embeddings["query"], embeddings["target"]
    query_key, target_key = labels["query_key"], labels["target_key"]
    positive_index = labels["is_positive"].nonzero()[:, 0]  # (Q,)
    if len(positive_index) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positive_index)} positives")
    positive_key = target_key[positive_index]  # (Q,)
    is_negative = _negatives_of(query_key, positive_key, target_key)
    output = hard_negative_loss(queries, targets, positive_index, is_negative, config, step)
    sides = {"query": queries[_is_first(query_key)], "target": targets[_is_first(target_key)]}
    stats = output.stats | spread(sides)
    if not config.symmetric:
        return LossOutput(output.loss, stats)
    is_negative = _negatives_of(positive_key, query_key, query_key)
    own = torch.arange(len(queries), device=queries.device)
    reverse = hard_negative_loss(targets[positive_index], queries, own, is_negative, config, step)
    stats |= {f"reverse_{name}": value for name, value in reverse.stats.items()}
    return LossOutput((output.loss + reverse.loss) / 2, stats)
