"""Ranks targets for queries, and what a ranking is worth: the metrics of MMEB.

Only the ten best are ever kept: the 24 numbers that MMEB-V2 reports ask for no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (1, 5, 10)
DEPTH = max(CUTOFFS)
MEASURES = (
    *("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1"),
    *("map", "mrr"),
)
METRICS = tuple(f"{measure}@{k}" for measure in MEASURES for k in CUTOFFS)  # MMEB-V2's order
BLOCK_VALUES = 1 << 26  # similarities, or values of gathered vectors, held at a time (256 MB)
SHARED = 256  # targets for each candidate of a query, up to which all are multiplied
NONE = float("-inf")


@dataclass
class Ranking:
    """The best targets of each query, best first."""

    targets: Tensor  # (Q, 10) int64, -1 where there are fewer candidates
    scores: Tensor  # (Q, 10) float32, -inf there


def rank_targets(
    queries: Tensor,
    targets: Tensor,
    candidates: Sequence[Sequence[int]] | None = None,
    depth: int = DEPTH,
) -> Ranking:
    """The `depth` most similar targets of every query, by dot product.

    Equal embeddings score exactly equal, and of equal scores the candidate that comes first in the
    list (or among the targets) ranks first. MMEB lists the right candidate first, and its own code
    takes the first of equal scores too.

    Args:
        queries: (Q, D).
        targets: (T, D), on the same device.
        candidates: for each query the targets that it is ranked against; None: all.
    """
    same = first_equal(targets)
    if candidates is None:
        blocks = _against_all(queries, targets, same, depth)
    else:
        blocks = _against_own(queries, targets, same, candidates, depth)
    places, scores = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return Ranking(places, scores)


def first_equal(rows: Tensor) -> Tensor:
    """For each row the first row that equals it bit by bit (N,)."""
    first: dict[bytes, int] = {}
    plain = rows.detach().cpu().contiguous().numpy()
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in plain)
    found = [first.setdefault(digest, place) for place, digest in enumerate(digests)]
    return torch.tensor(found, dtype=torch.long, device=rows.device)


Block = tuple[Tensor, Tensor]  # targets (q, depth), scores (q, depth)


def _against_all(queries: Tensor, targets: Tensor, same: Tensor, depth: int) -> list[Block]:
    size = max(1, BLOCK_VALUES // len(targets))
    is_unique = bool((same == torch.arange(len(same), device=same.device)).all())
    blocks = []
    for block in queries.split(size):
        scores = block @ targets.T  # (q, T)
        blocks.append(best(scores if is_unique else scores[:, same], depth))
    return blocks


def _against_own(
    queries: Tensor,
    targets: Tensor,
    same: Tensor,
    candidates: Sequence[Sequence[int]],
    depth: int,
) -> list[Block]:
    index = padded_index(candidates).to(targets.device)  # (Q, C)
    width = index.shape[1]
    is_unique = bool((same == torch.arange(len(same), device=same.device)).all())
    shared = len(targets) <= SHARED * width  # one product for all, of which each takes its own
    size = max(1, BLOCK_VALUES // (len(targets) if shared else width * targets.shape[1]))
    blocks = []
    for block, own in zip(queries.split(size), index.split(size), strict=True):
        chosen = own.clamp(min=0)  # (q, C)
        if shared:
            scores = (block @ targets.T).gather(1, same[chosen])
        elif is_unique:
            scores = (targets[chosen] @ block[:, :, None]).squeeze(2)
        else:  # the sum of the same two rows is the same wherever they stand
            scores = (targets[chosen] * block[:, None]).sum(dim=2)
        places, values = best(scores.masked_fill(own < 0, NONE), depth)
        found = own.gather(1, places.clamp(min=0))
        blocks.append((found.where(places >= 0, -1), values))
    return blocks


def padded_index(candidates: Sequence[Sequence[int]]) -> Tensor:
    """Lists of different lengths as one matrix (Q, C), filled up with -1."""
    lengths = torch.tensor([len(row) for row in candidates])
    places = np.fromiter(chain.from_iterable(candidates), dtype=np.int64, count=int(lengths.sum()))
    width = int(lengths.max())
    index = torch.full((len(candidates), width), -1)
    index[torch.arange(width) < lengths[:, None]] = torch.from_numpy(places)
    return index


def best(scores: Tensor, depth: int) -> Block:
    """Columns of the `depth` highest scores of each row, ties by lowest column, without a sort of
    the row; columns are -1 where there are no more, or where the score is -inf."""
    count = min(depth, scores.shape[1])
    values, columns = scores.topk(count, dim=1)  # of equal scores any
    last = values[:, -1:]
    tied = ((scores >= last).sum(dim=1) > count) & (last[:, 0] > NONE)  # for the last place
    if tied.any():
        columns[tied] = _lowest_of_equal(scores[tied], count)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order).where(values > NONE, -1)
    pad = torch.nn.functional.pad
    missing = depth - count
    return pad(columns, (0, missing), value=-1), pad(values, (0, missing), value=NONE)


def _lowest_of_equal(scores: Tensor, count: int) -> Tensor:
    """As `best`, by integers of score and column, no two of which are equal: float32's bits grow
    with their value when the negative half is turned around."""
    bits = (scores.float() + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) - torch.arange(scores.shape[1], device=scores.device)  # (q, C)
    return keys.topk(count, dim=1).indices


def ranking_metrics(targets: Tensor, relevance: Sequence[Mapping[int, float]]) -> dict[str, Tensor]:
    """Every metric of :data:`METRICS` for each query (Q,), as MMEB-V2 defines them (VLM2Vec,
    ``src/utils/eval_utils/metrics.py``): precision is of k places even where there are fewer
    candidates, average precision is of min(k, right targets), and gains beyond the binary count in
    the two ndcg alone.

    Args:
        targets: (Q, 10), of :func:`rank_targets`.
        relevance: the right targets of each query with their gains, above 0.
    """
    places = targets.tolist()
    found = [
        [own.get(place, 0.0) for place in row] for row, own in zip(places, relevance, strict=True)
    ]
    gains = torch.tensor(found, dtype=torch.float64)  # (Q, 10)
    ideal = torch.zeros_like(gains)
    for row, relevant in zip(ideal, relevance, strict=True):
        highest = sorted(relevant.values(), reverse=True)[:DEPTH]
        row[: len(highest)] = torch.tensor(highest, dtype=torch.float64)
    total = torch.tensor([len(own) for own in relevance], dtype=torch.float64)  # (Q,)
    ranks = torch.arange(1, DEPTH + 1, dtype=torch.float64)
    discount = (ranks + 1).log2()  # (10,)
    hits = (gains > 0).double()
    hits_so_far = hits.cumsum(dim=1)
    forms = {
        "ndcg_linear": (gains, ideal),
        "ndcg_exponential": (2**gains - 1, 2**ideal - 1),
    }
    values: dict[str, Tensor] = {}
    for k in CUTOFFS:
        count = hits_so_far[:, k - 1]
        precision, recall = count / k, count / total
        values |= {
            f"hit@{k}": (count > 0).double(),
            f"precision@{k}": precision,
            f"recall@{k}": recall,
            f"f1@{k}": 2 * precision * recall / (precision + recall).clamp(min=1e-300),
            f"map@{k}": (hits * hits_so_far / ranks)[:, :k].sum(dim=1) / total.clamp(max=k),
            f"mrr@{k}": (hits / ranks)[:, :k].amax(dim=1),
        }
        for form, (own, best_own) in forms.items():
            reached = (own / discount)[:, :k].sum(dim=1)
            values[f"{form}@{k}"] = reached / (best_own / discount)[:, :k].sum(dim=1)
    return {name: values[name] for name in METRICS}


def expected_by_chance(
    metric: str, relevance: Sequence[Mapping[int, float]], num_candidates: Sequence[int]
) -> float:
    """The mean of hit@1 or of ndcg_linear@k when every query's candidates are in random order.

    Raises:
        ValueError: another metric.
    """
    values = []
    for own, count in zip(relevance, num_candidates, strict=True):
        if metric == "hit@1":
            values.append(len(own) / count)
            continue
        name, _, k = metric.partition("@")
        if name != "ndcg_linear":
            raise ValueError(f"no chance level known of {metric}")
        places = 1 / (torch.arange(int(k), dtype=torch.float64) + 2).log2()
        ideal = sorted(own.values(), reverse=True)[: int(k)]
        mean_gain = sum(own.values()) / count
        reached = mean_gain * places[: min(int(k), count)].sum()
        values.append(float(reached / (torch.tensor(ideal) * places[: len(ideal)]).sum()))
    return sum(values) / len(values)
