"""The two losses of UniME: tensors in, a scalar and its statistics out.

Both see the rows of all ranks at once (see grad_cache.cached_backward); neither knows of models,
ranks or configuration files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import DistillationLossConfig, HardNegativeLossConfig, OnShort

LEVEL_ROUNDING = 1e-3  # equal similarities cost ln(1 + k) to rounding, which must not decide
NORM_TOLERANCE = 1e-2  # of an embedding's norm, which is 1
SPREAD_ROWS = 256  # of which statistics are taken: singular values of thousands take seconds


@dataclass
class LossOutput:
    """A scalar loss with its graph, and scalars to log (detached)."""

    loss: Tensor
    stats: dict[str, Tensor]


LossFunction = Callable[[dict[str, Tensor], dict[str, Tensor]], LossOutput]


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
            "teacher_correlation": torch.corrcoef(pairs)[0, 1],
            "teacher_mean_similarity": teacher_others.mean(),
        }
    return LossOutput(loss, stats | spread({"text": student}))


def without_diagonal(matrix: Tensor) -> Tensor:
    """(N, N) without its diagonal, (N, N-1), rows in order."""
    n = len(matrix)
    return matrix.flatten()[:-1].view(n - 1, n + 1)[:, 1:].reshape(n, n - 1)


@torch.no_grad()
def spread(sides: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far the different items of a batch lie apart: the mean similarity and the effective rank
    of all of them, and of each side alone, where one may collapse by itself; by which a collapse
    is known (collapse.py).

    Args:
        sides: name -> embeddings of different items (N, D); one side: just its own numbers.
    """
    named = {"": torch.cat(list(sides.values()))}
    if len(sides) > 1:
        named |= {f"{name}_": rows for name, rows in sides.items()}
    stats: dict[str, Tensor] = {}
    for prefix, rows in named.items():
        rows = _sample(rows.detach().double(), SPREAD_ROWS)
        stats[f"{prefix}mean_similarity"] = mean_similarity(rows)
        stats[f"{prefix}effective_rank"] = effective_rank(rows)
        stats[f"{prefix}distinct_items"] = rows.new_tensor(float(len(rows)))
    return stats


def mean_similarity(rows: Tensor) -> Tensor:
    """The mean over all pairs of different rows (N, D), without their N x N products."""
    both_ways = rows.sum(dim=0).square().sum() - rows.square().sum()
    return both_ways / max(1, len(rows) * (len(rows) - 1))


def _sample(rows: Tensor, count: int) -> Tensor:
    """At most `count` rows, evenly spaced."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).round().long()]


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007): about 1 when all
    embeddings have collapsed into one direction, at most min(N, D). Singular values come from the
    smaller Gram matrix; NaN where anything is not finite."""
    rows = embeddings.double()
    if not rows.isfinite().all():
        return rows.new_tensor(float("nan"))
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-30)
    return torch.exp(-torch.xlogy(share, share).sum())


def not_unit(embeddings: Tensor) -> Tensor:
    """True for each row (N,) that is no embedding: zero, not finite, or not of norm 1."""
    return ~((embeddings.norm(dim=1) - 1).abs() < NORM_TOLERANCE)  # NaN is not less either


def first_unsound(embeddings: Tensor) -> tuple[int, str] | None:
    """The first row that is no embedding, and why; None: all are."""
    bad = not_unit(embeddings).nonzero().flatten().tolist()
    if not bad:
        return None
    norm = embeddings[bad[0]].norm().item()
    why = f"has norm {norm:.3g}, expected 1" if math.isfinite(norm) else "is not finite"
    return bad[0], f"the embedding {why}: are the model's weights sound?"


def hard_negative_loss(
    queries: Tensor,
    candidates: Tensor,
    positive_index: Tensor,
    is_negative: Tensor,
    config: HardNegativeLossConfig,
    step: int | None = None,
) -> LossOutput:
    """InfoNCE over the positive and the k hardest negatives that survive the false-negative filter
    (paper 3.3, equations 3 and 4), or over all negatives until hard ones may begin.

    A negative more similar to the query than ``positive + false_negative_margin`` is taken for a
    false one and dropped; of the rest the ``num_hard_negatives`` most similar stay. What was
    dropped never comes back: with fewer than k left the empty places are masked, or
    (``on_short: repeat``, the paper's way) filled by repeating those that are left, hardest first.
    With none left the loss of that query is exactly zero.

    Args:
        queries: unit-norm (Q, D).
        candidates: unit-norm (C, D); positives, explicit negatives, everything in the pool.
        positive_index: the row of `candidates` that is right for each query (Q,).
        is_negative: which candidates may serve as a query's negatives (Q, C); of equal ones at most
            one, and no right answer (:func:`negatives_of`).
        step: optimizer steps taken so far; None: long after ``hard_negatives_after``.
    """
    similarity = queries @ candidates.T  # (Q, C)
    positive = similarity.gather(1, positive_index[:, None])  # (Q, 1)
    with torch.no_grad():
        is_false = false_negatives(similarity, positive, is_negative, config.false_negative_margin)
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
    """The mean over queries, of similarities (Q, 1) and (Q, N), -inf where there is none."""
    logits = torch.cat([positive, negatives], dim=1) / temperature  # (Q, 1 + N)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def _hard_negatives_begun(
    hard_loss: Tensor, kept: Tensor, config: HardNegativeLossConfig, step: int | None
) -> bool:
    """Whether this batch is past ``hard_negatives_after``. With ``auto``: its hard negatives cost
    less than they would in a collapsed model, where all similarities are equal, ln(1 + k). Above
    that level, collapse lies downhill.

    Args:
        hard_loss: of the batch's hardest negatives, a scalar.
        kept: which of the places of the k hardest are filled (Q, k).
    """
    after = config.hard_negatives_after
    if config.num_hard_negatives is None or after == 0 or step is None:
        return True
    if after == "auto":
        level = kept.sum(dim=1).add(1).double().log().mean()
        return bool(hard_loss < (1 - LEVEL_ROUNDING) * level)
    return step >= int(after)


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
        # of the queries that have a negative; NaN, which is not logged, where none has
        "hardest_negative_similarity": hardest[some].sum() / some.sum(),
        "accuracy": ((positive[:, 0] > hardest) & some).sum() / some.sum(),
        "distinct_negatives": is_negative.sum(dim=1).float().mean(),
        "filtered_share": is_false.sum() / is_negative.sum().clamp(min=1),
        "filtered_queries": is_false.any(dim=1).float().mean(),
        "short_queries": (left < (config.num_hard_negatives or 0)).sum().float(),
        "empty_queries": (~some).sum().float(),
    }


def negatives_of(query_key: Tensor, positive_key: Tensor, target_key: Tensor) -> Tensor:
    """Which targets may be whose negatives: different ones that are not known to be right (Q, C).

    Every target that some row of the batch gives as the positive of an equal query is right, and so
    is any copy of it. Of equal targets the first takes part, so that the k hardest are k different
    ones.

    Args:
        query_key: equal exactly for equal queries (Q,).
        positive_key: of each query's positive (Q,).
        target_key: of everything in the pool (C,).
    """
    same_query = (query_key[:, None] == query_key).float()  # (Q, Q)
    gives = (positive_key[:, None] == target_key).float()  # (Q, C)
    is_right = same_query @ gives > 0  # (Q, C)
    return ~is_right & is_first(target_key)


def is_first(keys: Tensor) -> Tensor:
    """True where a key comes for the first time (N,)."""
    return ~(keys[:, None] == keys).tril(-1).any(dim=1)


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
    is_negative = negatives_of(query_key, positive_key, target_key)
    output = hard_negative_loss(queries, targets, positive_index, is_negative, config, step)
    sides = {"query": queries[is_first(query_key)], "target": targets[is_first(target_key)]}
    stats = output.stats | spread(sides)
    if not config.symmetric:
        return LossOutput(output.loss, stats)
    is_negative = negatives_of(positive_key, query_key, query_key)
    own = torch.arange(len(queries), device=queries.device)
    reverse = hard_negative_loss(targets[positive_index], queries, own, is_negative, config, step)
    stats |= {f"reverse_{name}": value for name, value in reverse.stats.items()}
    return LossOutput((output.loss + reverse.loss) / 2, stats)
