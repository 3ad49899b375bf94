"""Clusters of one size over a graph of neighbours (B3, arXiv 2505.11293, figure 1).

B3 partitions its graph with METIS; this grows one cluster after another, by the row that most edges
lead to, which is how METIS begins (greedy graph growing), without its refinement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unime.data.sampling.answers import answer_ids

TAKEN = -np.inf
LOOK = 1000  # rows among which one is looked for where no edge leads


def grow_clusters(
    neighbours: np.ndarray,
    size: int,
    answers: np.ndarray,
    progress: Callable[[int], object] = lambda done: None,
) -> np.ndarray:
    """The cluster of each row (n,); all have `size` rows but perhaps the last.

    Rows that share an answer share a cluster only where nothing else is found.

    Args:
        neighbours: rows that are hard for each row (n, m), -1 where there are fewer. An edge that
            both of its rows ask for counts twice.
        answers: keys of each row's query and target (n, 2), and of its right answer (n, 3).
        progress: told after each cluster how many rows it has.
    """
    starts, edges, weights = _graph(neighbours)
    count = len(neighbours)
    labels = np.full(count, -1)
    score = np.zeros(count)  # of rows that are in no cluster yet: edges into the growing one
    first = 0  # before it all rows are taken
    ids = answer_ids(answers).tolist()
    frontier = np.empty(0, dtype=np.int64)
    for cluster in range(-(-count // size)):
        held = min(size, count - cluster * size)
        near, inside = [], set[int]()  # answers of its rows
        row = _nearest(frontier, score)
        score[frontier[score[frontier] != TAKEN]] = 0.0
        for _ in range(held):
            while row >= 0 and not inside.isdisjoint(ids[row]):
                score[row] = -1.0  # of this cluster
                row = _nearest(frontier, score)
            if row < 0:
                first = _first_free(score, first)
                row = _other(score, first, ids, inside)
            labels[row], score[row] = cluster, TAKEN
            inside.update(ids[row])
            own = slice(starts[row], starts[row + 1])
            open_ = score[edges[own]] >= 0
            near.append(edges[own][open_])
            score[near[-1]] += weights[own][open_]
            frontier = np.concatenate(near)
            row = _nearest(frontier, score)
        progress(held)
    return labels


def kept_edges(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """Which share of a cluster's pairs of rows are neighbours, either way, on average."""
    count, size = len(labels), int(np.bincount(labels).max())
    rows, places = (neighbours >= 0).nonzero()
    other = neighbours[rows, places]
    inside = labels[rows] == labels[other]
    pairs = np.unique(np.sort(np.stack([rows[inside], other[inside]]), axis=0), axis=1).shape[1]
    return pairs / max(1, count * (size - 1) / 2)


def _nearest(frontier: np.ndarray, score: np.ndarray) -> int:
    """The row that most edges lead to; -1: none is left that may be taken."""
    if not len(frontier):
        return -1
    place = score[frontier].argmax()
    return int(frontier[place]) if score[frontier[place]] > 0 else -1


def _first_free(score: np.ndarray, first: int) -> int:
    while score[first] == TAKEN:
        first += 1
    return first


def _other(score: np.ndarray, first: int, ids: list[list[int]], inside: set[int]) -> int:
    """A row that is free and shares no answer with a cluster, if one of the next is such."""
    free = first + np.flatnonzero(score[first : first + LOOK] != TAKEN)
    fits = (n for n in free.tolist() if inside.isdisjoint(ids[n]))
    return next(fits, first)


def _graph(neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the edges of each row begin (n + 1,), where they lead, and how often they are asked
    for."""
    count = len(neighbours)
    rows, places = (neighbours >= 0).nonzero()
    other = neighbours[rows, places].astype(np.int64)
    pairs = np.concatenate([rows * count + other, other * count + rows])
    pairs, weights = np.unique(pairs[pairs // count != pairs % count], return_counts=True)
    starts = np.searchsorted(pairs, np.arange(count + 1) * count)
    return starts, pairs % count, weights.astype(np.float64)
