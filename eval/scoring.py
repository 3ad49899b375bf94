"""What a model's embeddings are worth on a task."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from eval.bootstrap import drawn_means, interval
from eval.results import OF_A_SIZE, TaskResult
from eval.tasks.base import EvalTask
from unime.losses import truncated
from unime.retrieval.ranking import Ranking, expected_by_chance, rank_targets, ranking_metrics

SAMPLES = 2000  # of the bootstrap: the interval by which a result is said to be at chance


def score_task(
    task: EvalTask, queries: Tensor, targets: Tensor, items: Tensor
) -> tuple[Ranking, dict[str, Tensor]]:
    """Rank, and measure every metric of every query (Q,).

    Args:
        queries: (Q, D).
        targets: (T, D), on the same device.
        items: which item each target is (T,); copies of one have the same number.
    """
    ranking = rank_targets(queries, targets, task.candidates, relevance=task.relevance, items=items)
    ties = None if task.ties_lose else ranking.ties
    return ranking, ranking_metrics(ranking.targets, task.relevance, ties)


def summary(
    task: EvalTask, ranking: Ranking, metrics: dict[str, Tensor], metric: str
) -> dict[str, Any]:
    """Of a result's :class:`Scores` those that the ranking decides."""
    assert ranking.ties is not None
    means = {name: values.mean().item() for name, values in metrics.items()}
    values = metrics[metric].tolist()
    sizes = _num_candidates(task)
    return {
        "score": means[metric],
        "ci95": interval(drawn_means(values, SAMPLES, 0, task.name)),
        "values": values,
        "metrics": means,
        "num_queries": len(task.queries),
        "num_candidates": sum(sizes) / len(sizes),
        "chance": chance_of(task, metric),
        "tied_queries": ranking.ties.count(int(metric.partition("@")[2])),
    }


def at_sizes(
    task: EvalTask, queries: Tensor, targets: Tensor, items: Tensor, metric: str, sizes: list[int]
) -> dict[str, dict[str, Any]]:
    """What :func:`summary` says of so many first coordinates, normalised again (arXiv 2205.13147),
    for each size.

    Args:
        queries, targets, items: as of :func:`score_task`.
    """
    found = {}
    for size in sizes:
        cut = truncated(queries, size), truncated(targets, size)
        own = summary(task, *score_task(task, *cut, items), metric)
        found[str(size)] = {key: own[key] for key in OF_A_SIZE}
    return found


def chance_of(task: EvalTask, metric: str) -> float:
    """The score of a random order of each query's candidates."""
    return expected_by_chance(metric, task.relevance, _num_candidates(task))


def _num_candidates(task: EvalTask) -> list[int]:
    if not task.candidates:
        return [len(task.targets)] * len(task.queries)
    return [len(own) for own in task.candidates]


def in_words(result: TaskResult) -> str:
    """One line about a result."""
    scores = result.scores
    if scores is None:
        return f"{result.task}: not supported: {result.not_supported}"
    sizes = [f"{size}: {own['score']:.1%}" for size, own in (scores.dimensions or {}).items()]
    by_size = f"; by dimensions {', '.join(sizes)}" if sizes else ""
    return (
        f"{result.task}: {result.metric} {scores.score:.1%} of {scores.num_queries}"
        f" queries (chance {scores.chance:.1%}); {scores.num_items} items, of which"
        f" {scores.num_encoded} new, in {scores.seconds:.1f} s{by_size}"
    )
