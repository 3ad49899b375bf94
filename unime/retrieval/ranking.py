"""Ranks targets for queries, and what a ranking is worth: the metrics of MMEB.

Only the ten best are ever kept: the 24 numbers that MMEB-V2 reports ask for no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unime.retrieval.measures import CUTOFFS, METRICS
from unime.retrieval.ties import DEPTH, Ties, as_ranked, joined, mark_ties

BLOCK_VALUES = 1 << 26  # similarities, or values of gathered vectors, held at a time (256 MB)
SHARED = 256  # targets for each candidate of a query, up to which all are multiplied
NONE = float("-inf")


@dataclass
class Ranking:
    """The best targets of each query, best first."""

    targets: Tensor  # (Q, 10) int64, -1 where there are fewer candidates
    scores: Tensor  # (Q, 10) float32, -inf there
    ties: Ties | None = None  # None: not asked for


def rank_targets(
    queries: Tensor,
    targets: Tensor,
    candidates: Sequence[Sequence[int]] | None = None,
    depth: int = DEPTH,
    *,
    relevance: Sequence[Mapping[int, float]] | None = None,
    items: Tensor | None = None,
) -> Ranking:
    """The `depth` most similar targets of every query, by dot product.

    Equal embeddings score exactly equal, and of equal scores the candidate that comes first in the
    list (or among the targets) ranks first. That decides among copies of one item, as in MMEB's own
    code, which lists the right one first and takes the first of equal scores. Where different items
    tie, it would hand the right one to a model that cannot tell them apart: `ties` has what
    :func:`ranking_metrics` needs to value those as in random order.

    Args:
        queries: (Q, D).
        targets: (T, D), on the same device.
        candidates: for each query the targets that it is ranked against; None: all.
        depth: 10 where there is `relevance`.
        relevance: the right targets of each query with their gains, above 0; None: no ties.
        items: which item each target is (T,); None: each another one.
    """
    items = torch.arange(len(targets)) if items is None else items
    items = items.to(targets.device)
    found: list[tuple[Tensor, Tensor]] = []
    ties: list[Ties] = []
    first = 0
    for scores, own in _blocks(queries, targets, candidates):
        columns, values, tied = best(scores, depth)
        ranked = columns
        if own is not None:
            ranked = own.gather(1, columns.clamp(min=0)).where(columns >= 0, -1)
        found.append((ranked, values))
        if relevance is not None:
            relevant = relevance[first : first + len(scores)]
            ties.append(as_ranked(ranked, relevant))
            rows = tied.nonzero()[:, 0]
            own = own if own is None else own[rows]
            gains = _gains([relevant[row] for row in rows.tolist()], own, scores.shape[1])
            what = items.expand(len(rows), -1) if own is None else items[own.clamp(min=0)]
            mark_ties(ties[-1], rows, scores[rows], columns[rows], gains.to(what.device), what)
        first += len(scores)
    places, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Ranking(places, scores, None if relevance is None else joined(ties))


def first_equal(rows: Tensor) -> Tensor:
    """For each row the first row that equals it bit by bit (N,)."""
    first: dict[bytes, int] = {}
    plain = rows.detach().cpu().contiguous().numpy()
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in plain)
    found = [first.setdefault(digest, place) for place, digest in enumerate(digests)]
    return torch.tensor(found, dtype=torch.long, device=rows.device)


def _blocks(
    queries: Tensor, targets: Tensor, candidates: Sequence[Sequence[int]] | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """For some queries at a time the scores of their candidates (q, C), -inf where there are fewer,
    and which targets these are (q, C), -1 there; None: all of them."""
    same = first_equal(targets)
    is_unique = bool((same == torch.arange(len(same), device=same.device)).all())
    if candidates is None:
        for block in queries.split(max(1, BLOCK_VALUES // len(targets))):
            scores = block @ targets.T
            yield scores if is_unique else scores[:, same], None
        return
    lists = [torch.tensor(own, dtype=torch.long) for own in candidates]
    index = pad_sequence(lists, batch_first=True, padding_value=-1).to(targets.device)  # (Q, C)
    width = index.shape[1]
    shared = len(targets) <= SHARED * width  # one product for all, of which each takes its own
    size = max(1, BLOCK_VALUES // (len(targets) if shared else width * targets.shape[1]))
    for block, own in zip(queries.split(size), index.split(size), strict=True):
        chosen = own.clamp(min=0)  # (q, C)
        if shared:
            scores = (block @ targets.T).gather(1, same[chosen])
        elif is_unique:
            scores = (targets[chosen] @ block[:, :, None]).squeeze(2)
        else:  # the sum of the same two rows is the same wherever they stand
            scores = (targets[chosen] * block[:, None]).sum(dim=2)
        yield scores.masked_fill(own < 0, NONE), own


def _gains(relevance: Sequence[Mapping[int, float]], own: Tensor | None, width: int) -> Tensor:
    """The gain of every candidate of some queries (q, C)."""
    gains = torch.zeros(len(relevance), width, dtype=torch.float64)
    for row, relevant in enumerate(relevance):
        places = torch.tensor(list(relevant))
        values = torch.tensor(list(relevant.values()), dtype=torch.float64)
        if own is not None:
            is_it = own[row].cpu() == places[:, None]  # (R, C)
            places, values = is_it.nonzero()[:, 1], values[is_it.nonzero()[:, 0]]
        gains[row, places] = values
    return gains


def best(scores: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of the `depth` highest scores of each row, ties by lowest column, without a sort of
    the row; columns are -1 where there are no more, or where the score is -inf.

    Returns:
        Columns (q, depth), their scores (q, depth), and whether any of these is shared (q).
    """
    count = min(depth, scores.shape[1])
    values, columns = scores.topk(count, dim=1)  # of equal scores any
    last = values[:, -1:]
    tied = ((scores >= last).sum(dim=1) > count) & (last[:, 0] > NONE)  # for the last place
    if tied.any():
        columns[tied] = _lowest_of_equal(scores[tied], count)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order).where(values > NONE, -1)
    tied |= ((values[:, 1:] == values[:, :-1]) & (columns[:, 1:] >= 0)).any(dim=1)
    pad = torch.nn.functional.pad
    missing = depth - count
    return pad(columns, (0, missing), value=-1), pad(values, (0, missing), value=NONE), tied


def _lowest_of_equal(scores: Tensor, count: int) -> Tensor:
    """As `best`, by integers of score and column, no two of which are equal: float32's bits grow
    with their value when the negative half is turned around."""
    bits = (scores.float() + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) - torch.arange(scores.shape[1], device=scores.device)  # (q, C)
    return keys.topk(count, dim=1).indices


def ranking_metrics(
    targets: Tensor, relevance: Sequence[Mapping[int, float]], ties: Ties | None = None
) -> dict[str, Tensor]:
    """Every metric of :data:`METRICS` for each query (Q,), as MMEB-V2 defines them (VLM2Vec,
    ``src/utils/eval_utils/metrics.py``): precision is of k places even where there are fewer
    candidates, average precision is of min(k, right targets), and gains beyond the binary count in
    the two ndcg alone. Where different items tie, the mean over all their orders, in closed form
    (as McSherry & Najork 2008); a query without such ties has the value of its one order.

    Args:
        targets: (Q, 10), of :func:`rank_targets`.
        relevance: the right targets of each query with their gains, above 0.
        ties: of :func:`rank_targets`; None: all in the order of `targets`.
    """
    groups = as_ranked(targets, relevance) if ties is None else ties
    ideal = torch.zeros(len(relevance), DEPTH, dtype=torch.float64)
    for row, relevant in zip(ideal, relevance, strict=True):
        highest = sorted(relevant.values(), reverse=True)[:DEPTH]
        row[: len(highest)] = torch.tensor(highest, dtype=torch.float64)
    total = torch.tensor([len(own) for own in relevance], dtype=torch.float64)  # (Q,)
    ranks = torch.arange(1, DEPTH + 1, dtype=torch.float64)
    discount = (ranks + 1).log2()  # (10,)
    forms = {
        "ndcg_linear": (groups.gain, ideal),
        "ndcg_exponential": (groups.exponential_gain, 2**ideal - 1),
    }
    hits_so_far = groups.hits.cumsum(dim=1)
    none_so_far = groups.none_so_far()
    first_here = torch.nn.functional.pad(none_so_far, (1, 0), value=1.0).diff(dim=1).neg()
    precisions = groups.hits * groups.hits_if_right(hits_so_far) / ranks
    values: dict[str, Tensor] = {}
    for k in CUTOFFS:
        count = hits_so_far[:, k - 1]
        precision, recall = count / k, count / total
        values |= {
            f"hit@{k}": 1 - none_so_far[:, k - 1],
            f"precision@{k}": precision,
            f"recall@{k}": recall,
            f"f1@{k}": 2 * precision * recall / (precision + recall).clamp(min=1e-300),
            f"map@{k}": precisions[:, :k].sum(dim=1) / total.clamp(max=k),
            f"mrr@{k}": (first_here / ranks)[:, :k].sum(dim=1),
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
    name, _, k = metric.partition("@")
    if metric != "hit@1" and name != "ndcg_linear":
        raise ValueError(f"no chance level known of {metric}")
    depth = int(k)
    places = 1 / (torch.arange(depth, dtype=torch.float64) + 2).log2()
    values = []
    for own, count in zip(relevance, num_candidates, strict=True):
        if metric == "hit@1":
            values.append(len(own) / count)
            continue
        ideal = sorted(own.values(), reverse=True)[:depth]
        mean_gain = sum(own.values()) / count
        reached = mean_gain * places[: min(depth, count)].sum()
        values.append(float(reached / (torch.tensor(ideal) * places[: len(ideal)]).sum()))
    return sum(values) / len(values)
