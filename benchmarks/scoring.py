"""Scoring from stored embeddings, against a loop over queries in NumPy.

    python -m benchmarks.scoring [OUTPUT.json] [tasks=36] [queries=1000] [candidates=1000] …

Both read the same store and compute the same 24 metrics for every query. The loop is written from
the metrics' definitions and does what published evaluation scripts do: for each query it stacks its
candidates' vectors, sorts all of them and counts in Python. Vectors have 1,024 entries of ±1/32, so
that every dot product is exact, in whatever order it is summed: equal rankings, ties included, and
so equal metrics are asked for, to the last bit but for the order in which means are summed.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from unime.data.embedding_store import EmbeddingStore
from unime.inputs.items import KEY_BYTES
from unime.retrieval.measures import CUTOFFS, METRICS
from unime.retrieval.ranking import rank_targets, ranking_metrics
from unime.runtime.environment import device_name, git_commit

PROMISED = 0.2  # of the loop's time, with the default settings
NONZERO = 1024  # entries of ±1/32: norm 1


@dataclass
class Settings:
    tasks: int = 36
    queries: int = 1000
    candidates: int = 1000  # of each query
    pool: int = 4000  # targets of a task, of which each query has its own candidates
    dimension: int = 1536
    seed: int = 0


def reference_metrics(order: Sequence[int], relevance: Mapping[int, float]) -> dict[str, float]:
    """All metrics of one query, by their definitions: `order` are the targets, best first."""
    values: dict[str, float] = {}
    for k in CUTOFFS:
        top = list(order[:k])
        right = [target for target in top if target in relevance]
        precision, recall = len(right) / k, len(right) / len(relevance)
        values[f"hit@{k}"] = 1.0 if right else 0.0
        for form in ("linear", "exponential"):
            found = [relevance.get(target, 0.0) for target in top]
            ideal = sorted(relevance.values(), reverse=True)[:k]
            gained = [
                sum(
                    (gain if form == "linear" else 2**gain - 1) / math.log2(rank + 1)
                    for rank, gain in enumerate(gains, start=1)
                )
                for gains in (found, ideal)
            ]
            values[f"ndcg_{form}@{k}"] = gained[0] / gained[1]
        values[f"precision@{k}"] = precision
        values[f"recall@{k}"] = recall
        total = precision + recall
        values[f"f1@{k}"] = 2 * precision * recall / total if total else 0.0
        ranks = [rank for rank, target in enumerate(top, start=1) if target in relevance]
        precisions = [number / rank for number, rank in enumerate(ranks, start=1)]
        values[f"map@{k}"] = sum(precisions) / min(len(relevance), k)
        values[f"mrr@{k}"] = 1 / ranks[0] if ranks else 0.0
    return {name: values[name] for name in METRICS}


def reference_scores(
    queries: np.ndarray,
    targets: np.ndarray,
    candidates: Sequence[Sequence[int]],
    relevance: Sequence[Mapping[int, float]],
) -> dict[str, float]:
    """The mean of every metric, one query at a time."""
    values = []
    for query, own, relevant in zip(queries, candidates, relevance, strict=True):
        vectors = np.stack([targets[place] for place in own])  # (C, D)
        order = np.argsort(-(vectors @ query), kind="stable")  # of equal scores the first
        values.append(reference_metrics([own[place] for place in order], relevant))
    return {name: float(np.mean([value[name] for value in values])) for name in METRICS}


def batched_scores(
    queries: torch.Tensor,
    targets: torch.Tensor,
    candidates: Sequence[Sequence[int]],
    relevance: Sequence[Mapping[int, float]],
) -> dict[str, float]:
    """The mean of every metric, as the evaluation computes it; all targets count as one item, so
    that equal scores rank as listed, which is the loop's rule."""
    items = torch.zeros(len(targets), dtype=torch.long)
    ranking = rank_targets(queries, targets, candidates, relevance=relevance, items=items)
    metrics = ranking_metrics(ranking.targets, relevance, ranking.ties)
    return {name: values.mean().item() for name, values in metrics.items()}


@dataclass
class StoredTask:
    """Queries and targets in a store, by their keys."""

    queries: list[bytes]
    targets: list[bytes]
    candidates: list[list[int]]
    relevance: list[dict[int, float]]


def make_task(settings: Settings, store: EmbeddingStore, number: int) -> StoredTask:
    """Queries near their first candidate; every third has graded relevance over three targets."""
    random = np.random.default_rng([settings.seed, number])
    targets = np.zeros((settings.pool, settings.dimension), dtype=np.float32)
    signs = random.choice([-1.0, 1.0], size=(settings.pool, NONZERO)) / 32
    for row, sign in zip(targets, signs, strict=True):
        row[random.choice(settings.dimension, NONZERO, replace=False)] = sign
    candidates, relevance, queries = [], [], []
    for query in range(settings.queries):
        own = random.choice(settings.pool, settings.candidates, replace=False).tolist()
        candidates.append(own)
        graded = {own[0]: 2.0, own[1]: 1.0, own[2]: 1.0}
        relevance.append(graded if query % 3 == 0 else {own[0]: 1.0})
        kept = random.random(settings.dimension) < random.uniform(0.0, 0.3)
        queries.append(np.where(kept, targets[own[0]], np.roll(targets[own[-1]], query)))
    vectors = np.stack(queries)
    for row in vectors:  # to 1,024 entries again
        change = NONZERO - int((row != 0).sum())
        places = np.flatnonzero((row == 0) if change > 0 else (row != 0))
        chosen = random.choice(places, abs(change), replace=False)
        row[chosen] = 1 / 32 if change > 0 else 0.0
    everything = torch.from_numpy(np.concatenate([vectors, targets]))
    keys = [
        (1 + number * len(everything) + place).to_bytes(KEY_BYTES, "big")
        for place in range(len(everything))
    ]
    store.add(keys, everything, [False] * len(keys))
    cut = settings.queries
    return StoredTask(keys[:cut], keys[cut:], candidates, relevance)


def main(words: list[str]) -> None:
    output = Path(words.pop(0)) if words and "=" not in words[0] else None
    merged = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(words))
    settings: Settings = OmegaConf.to_object(merged)  # type: ignore[assignment]
    seconds = {"ours": 0.0, "loop": 0.0}
    difference, commit = 0.0, git_commit()
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddingStore(Path(folder), {})
        for number in range(settings.tasks):
            task = make_task(settings, store, number)
            started = time.perf_counter()
            queries, targets = store.embeddings(task.queries), store.embeddings(task.targets)
            ours = batched_scores(queries, targets, task.candidates, task.relevance)
            middle = time.perf_counter()
            arrays = [store.embeddings(keys).numpy() for keys in (task.queries, task.targets)]
            loop = reference_scores(*arrays, task.candidates, task.relevance)
            seconds["ours"] += middle - started
            seconds["loop"] += time.perf_counter() - middle
            difference = max(difference, *(abs(ours[name] - loop[name]) for name in METRICS))
            print(f"task {number + 1}/{settings.tasks}: hit@1 {ours['hit@1']:.3f}", end="\r")
        store.close()
    result = {
        **asdict(settings),
        "seconds": seconds,
        "ratio": seconds["ours"] / seconds["loop"],
        "largest_difference": difference,
        "threads": torch.get_num_threads(),
        "device": device_name(),
        "commit": commit,
    }
    print(json.dumps(result, indent=2))
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n")
    if difference > 1e-12:
        raise SystemExit(f"the metrics differ by {difference}")
    if not words and result["ratio"] >= PROMISED:
        raise SystemExit(f"{result['ratio']:.2f} of the loop's time, promised: below {PROMISED}")


if __name__ == "__main__":
    main(sys.argv[1:])
