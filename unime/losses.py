"""The two losses of UniME: tensors in, a scalar and its statistics out.

Both see the rows of all ranks at once (see grad_cache.cached_backward); neither knows of models,
ranks or configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import DistillationLossConfig, HardNegativeLossConfig, OnShort


@dataclass
class LossOutput:
    """A scalar loss with its graph, and scalars to log (detached)."""

    loss: Tensor
    stats: dict[str, Tensor]


def distillation_loss(
    student: Tensor, teacher: Tensor, config: DistillationLossConfig
) -> LossOutput:
    """Textual discriminative knowledge distillation: the mean over rows of KL(teacher ‖ student)
    between the softmaxes of the two batch similarity matrices (paper 3.2, equation 2).

    The paper's formula is ambiguous about the diagonal. It is masked by default: an embedding's
    similarity to itself is always 1, so at a small temperature it takes nearly all of every row's
    mass in teacher and student alike, and what the loss should teach, the order of the *other*
    texts, is left with almost no gradient.

    Args:
        student: unit-norm embeddings with a graph (N, D).
        teacher: unit-norm embeddings of the same texts, any width (N, T).

    Raises:
        ValueError: fewer than 3 rows with the diagonal masked (2 with it): nothing to distribute.
    """
    rows = len(student)
    least = 2 if config.include_diagonal else 3
    if rows < least or len(teacher) != rows:
        raise ValueError(f"distillation needs at least {least} rows, got {rows} and {len(teacher)}")
    student_similarity = student @ student.T  # (N, N)
    teacher_similarity = (teacher @ teacher.T).to(student_similarity.dtype)  # (N, N)
    student_others = without_diagonal(student_similarity)  # (N, N-1)
    teacher_others = without_diagonal(teacher_similarity)  # (N, N-1)
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
            "mean_similarity": student_others.mean(),
            "teacher_correlation": torch.corrcoef(pairs)[0, 1],
            "effective_rank": effective_rank(student),
        }
    return LossOutput(loss, stats)


def without_diagonal(matrix: Tensor) -> Tensor:
    """(N, N) without its diagonal, (N, N-1), rows in order."""
    n = len(matrix)
    return matrix.flatten()[:-1].view(n - 1, n + 1)[:, 1:].reshape(n, n - 1)


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007): about 1 when all
    embeddings have collapsed into one direction, at most min(N, D). Singular values come from the
    smaller Gram matrix."""
    rows = embeddings.double()
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-30)
    return torch.exp(-torch.xlogy(share, share).sum())


def hard_negative_loss(
    queries: Tensor,
    candidates: Tensor,
    positive_index: Tensor,
    is_negative: Tensor,
    config: HardNegativeLossConfig,
) -> LossOutput:
    """InfoNCE over the positive and the k hardest negatives that survive the false-negative filter
    (paper 3.3, equations 3 and 4).

    A negative more similar to the query than ``positive + false_negative_margin`` is taken for a
    false one and dropped; of the rest the ``num_hard_negatives`` most similar stay. What was
    dropped never comes back: with fewer than k left the empty places are masked, or
    (``on_short: repeat``, the paper's way) filled by repeating those that are left, hardest first.
    With none left the loss of that query is exactly zero.

    Args:
        queries: unit-norm (Q, D).
        candidates: unit-norm (C, D); positives, explicit negatives, everything in the pool.
        positive_index: the row of `candidates` that is right for each query (Q,).
        is_negative: False where a candidate may not serve as a query's negative: its positive and
            exact duplicates of that (Q, C).
    """
    similarity = queries @ candidates.T  # (Q, C)
    positive = similarity.gather(1, positive_index[:, None])  # (Q, 1)
    with torch.no_grad():
        is_false = false_negatives(similarity, positive, is_negative, config.false_negative_margin)
        hardest, kept = _hardest(similarity, is_negative & ~is_false, config)  # (Q, k) each
    negatives = similarity.gather(1, hardest).masked_fill(~kept, float("-inf"))  # (Q, k)
    logits = torch.cat([positive, negatives], dim=1) / config.temperature  # (Q, 1 + k)
    loss = F.cross_entropy(logits, torch.zeros_like(positive_index))
    stats = _hard_negative_stats(positive, negatives, is_negative, is_false, config)
    return LossOutput(loss, stats)


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


def _hardest(
    similarity: Tensor, eligible: Tensor, config: HardNegativeLossConfig
) -> tuple[Tensor, Tensor]:
    """Indices of the k most similar eligible candidates, and which of these places are filled."""
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
        "hardest_negative_similarity": hardest[some].sum() / some.sum().clamp(min=1),
        "accuracy": (positive[:, 0] > hardest).float().mean(),
        "filtered_share": is_false.sum() / is_negative.sum().clamp(min=1),
        "filtered_queries": is_false.any(dim=1).float().mean(),
        "short_queries": (left < (config.num_hard_negatives or 0)).sum().float(),
        "empty_queries": (~some).sum().float(),
    }


def instruction_loss(
    embeddings: dict[str, Tensor], labels: dict[str, Tensor], config: HardNegativeLossConfig
) -> LossOutput:
    """Stage 2's loss over the global batch: each query against all targets, and with ``symmetric``
    each positive target against all queries (the mean of the two).

    Args:
        embeddings: "query" (Q, D) and "target" (C, D).
        labels: "target_key" (C,) and, if ``symmetric``, "query_key" (Q,), equal exactly for items
            of equal text and image content; "is_positive" (C,), True for Q targets, in the order of
            their queries.
    """
    queries, targets = embeddings["query"], embeddings["target"]
    positive_index = labels["is_positive"].nonzero()[:, 0]  # (Q,)
    if len(positive_index) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positive_index)} positives")
    positive_key = labels["target_key"][positive_index]  # (Q,)
    is_negative = positive_key[:, None] != labels["target_key"][None, :]  # (Q, C)
    output = hard_negative_loss(queries, targets, positive_index, is_negative, config)
    if not config.symmetric:
        return output
    # A query is no negative of a target that equals its own positive, nor of its own duplicate.
    query_key = labels["query_key"]
    is_negative = (query_key[:, None] != query_key) & (positive_key[:, None] != positive_key)
    own = torch.arange(len(queries), device=queries.device)
    reverse = hard_negative_loss(targets[positive_index], queries, own, is_negative, config)
    stats = output.stats | {f"reverse_{name}": value for name, value in reverse.stats.items()}
    return LossOutput((output.loss + reverse.loss) / 2, stats)
