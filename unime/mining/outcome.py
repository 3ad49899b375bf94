"""What mining tells of a task: how many candidates each rule dropped, similarities, rows that got
fewer negatives than asked for, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unime.inputs.items import Item
from unime.mining.miner import BINS, Mined, Miner
from unime.mining.rules import Found

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN = 6  # candidates of an example that rules dropped


def as_report(
    miner: Miner, mined: Mined, row_ids: Sequence[str], examples: int, seed: int
) -> dict[str, Any]:
    """As JSON; equal for equal work.

    Args:
        examples: how many rows to show.
    """
    counts = (mined.negatives >= 0).sum(dim=1)
    wanted = miner.config.num_negatives
    short = (counts < wanted).nonzero()[:, 0].tolist()
    tally = mined.tally
    chosen = np.random.default_rng([seed, len(row_ids)]).permutation(len(row_ids))[:examples]
    return {
        "rows": len(row_ids),
        "queries": len(miner.corpus.queries),
        "targets": len(miner.corpus.targets),
        "wanted": wanted,
        "negatives": int(counts.sum()),
        "candidates": tally.candidates,
        "rules": {
            name: {"dropped": n, "first": first} for name, (n, first) in tally.dropped.items()
        },
        "scores": {name: distribution(bins) for name, bins in tally.scores.items()},
        "short": {
            "rows": len(short),
            "found": {row_ids[row]: int(counts[row]) for row in short},
        },
        "examples": [_example(miner, mined, row_ids[row], row) for row in sorted(chosen.tolist())],
    }


def distribution(bins: Tensor) -> dict[str, Any]:
    """Of similarities that were counted in parts of -1 to 1: how many, their mean, and below what
    which share of them is, to half of a part."""
    total = int(bins.sum())
    if not total:
        return {"count": 0}
    middles = (torch.arange(BINS).double() + 0.5) * (2 / BINS) - 1
    so_far = bins.cumsum(0)
    quantiles = {
        f"{100 * share:g}%": round(middles[int((so_far < share * total).sum())].item(), 4)
        for share in SHARES
    }
    mean = (bins * middles).sum().item() / total
    return {"count": total, "mean": round(mean, 4), **quantiles, "bins": bins.tolist()}


def _example(miner: Miner, mined: Mined, row_id: str, row: int) -> dict[str, Any]:
    """A row: what it asks, what is right, what was mined, and the nearest of what was dropped."""
    corpus = miner.corpus
    found, hits = next(miner.judged([row]))
    return {
        "row_id": row_id,
        "query": _told(corpus.queries[corpus.query_of[row]]),
        "target": _told(corpus.targets[corpus.target_of[row]]),
        "score": round(mined.positive_scores[row].item(), 4),
        "negatives": [
            {"item": _told(corpus.targets[number]), "score": round(score, 4)}
            for number, score in zip(
                mined.negatives[row].tolist(), mined.scores[row].tolist(), strict=True
            )
            if number >= 0
        ],
        "dropped": _dropped(miner, found, hits),
    }


def _dropped(miner: Miner, found: Found, hits: dict[str, Tensor]) -> list[dict[str, Any]]:
    dropped = []
    for place, target in enumerate(found.targets[0].tolist()):
        names = [name for name, hit in hits.items() if hit[0, place]]
        if target >= 0 and target != found.positives[0] and names:
            score = round(found.scores[0, place].item(), 4)
            item = _told(miner.corpus.targets[target])
            dropped.append({"item": item, "score": score, "rules": names})
    return dropped[:SHOWN]


def _told(item: Item) -> dict[str, Any]:
    return {"text": item.text, "images": list(item.images), "instruction": item.instruction}
