"""What is told of a batch's embeddings, and which of them are none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NORM_TOLERANCE = 1e-2  # of an embedding's norm, which is 1
SPREAD_ROWS = 256  # of which statistics are taken: singular values of thousands take seconds


@torch.no_grad()
def spread(sides: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far the different items of a batch lie apart: the mean similarity and the effective rank
    of all of them, and of each side alone, where one may collapse by itself; by which a collapse
    is known (collapse.py).

    Args:
        sides: name -> embeddings of different items (N, D); one side: just its own numbers.
    """
    named = {"": list(sides.values())}
    if len(sides) > 1:
        named |= {f"{name}_": [rows] for name, rows in sides.items()}
    stats: dict[str, Tensor] = {}
    for prefix, parts in named.items():
        rows = _sample(parts, SPREAD_ROWS).double()
        stats[f"{prefix}mean_similarity"] = mean_similarity(rows)
        stats[f"{prefix}effective_rank"] = effective_rank(rows)
        stats[f"{prefix}distinct_items"] = rows.new_tensor(float(len(rows)))
    return stats


@torch.no_grad()
def mean_similarity(rows: Tensor) -> Tensor:
    """The mean over all pairs of different rows (N, D), without their N x N products."""
    both_ways = rows.sum(dim=0).double().square().sum() - rows.norm(dim=1).double().square().sum()
    return both_ways / max(1, len(rows) * (len(rows) - 1))


def _sample(parts: Sequence[Tensor], count: int) -> Tensor:
    """At most `count` rows, evenly spaced, of parts that are one after another."""
    total = sum(map(len, parts))
    if total <= count:
        return torch.cat(list(parts))
    places = torch.linspace(0, total - 1, count, device=parts[0].device).round().long()
    found = []
    for rows in parts:
        found.append(rows[places[(places >= 0) & (places < len(rows))]])
        places = places - len(rows)
    return torch.cat(found)


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
