"""Clusters over a graph of neighbours: ./launch.sh test tests/data/test_growing.py"""

from __future__ import annotations

import numpy as np

from unime.data.sampling.growing import grow_clusters, kept_edges

GROUPS, SIZE = 12, 8


def neighbours_in_groups(group: np.ndarray, m: int = 6) -> np.ndarray:
    """Of each row some others of its group, by chance, -1 in the last place."""
    random = np.random.default_rng(3)
    found = []
    for row, own in enumerate(group):
        others = np.setdiff1d(np.flatnonzero(group == own), [row])
        found.append([*random.choice(others, m, replace=False), -1])
    return np.array(found)


def distinct(rows: int) -> np.ndarray:
    return np.stack([np.arange(rows), np.arange(rows)], axis=1)


def test_groups_are_found() -> None:
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(GROUPS), SIZE))
    neighbours = neighbours_in_groups(group)
    labels = grow_clusters(neighbours, SIZE, distinct(len(group)))
    assert np.bincount(labels).tolist() == [SIZE] * GROUPS
    assert all(len(set(group[labels == cluster])) == 1 for cluster in range(GROUPS))
    assert kept_edges(neighbours, labels) > 0.8
    assert kept_edges(neighbours, np.arange(len(group)) // SIZE) < 0.3
    again = grow_clusters(neighbours, SIZE, distinct(len(group)))
    assert (labels == again).all()


def test_the_last_cluster_has_what_is_left() -> None:
    told: list[int] = []
    labels = grow_clusters(np.full((21, 3), -1), SIZE, distinct(21), told.append)
    assert np.bincount(labels).tolist() == told == [8, 8, 5]


def test_rows_of_one_answer_are_kept_apart() -> None:
    group = np.repeat(np.arange(GROUPS), SIZE)
    answers = distinct(len(group))
    answers[:, 1] //= 2  # two rows each
    labels = grow_clusters(neighbours_in_groups(group), SIZE, answers)
    pairs = labels.reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).mean() < 0.1
    named = np.column_stack([distinct(len(group)), np.arange(len(group)) // 2])
    named[group == 0, 2] = 0  # unknown: shared by nobody
    pairs = grow_clusters(neighbours_in_groups(group), SIZE, named).reshape(-1, 2)
    assert (pairs[SIZE // 2 :, 0] == pairs[SIZE // 2 :, 1]).mean() < 0.1
    unknown = np.column_stack([distinct(len(group)), np.zeros(len(group), dtype=np.int64)])
    neighbours = neighbours_in_groups(group)
    labels = grow_clusters(neighbours, SIZE, unknown)
    assert (labels == grow_clusters(neighbours, SIZE, distinct(len(group)))).all()
    # of two answers a cluster of eight has six rows too many, whatever one does
    answers[:, 1] = group % 2
    labels = grow_clusters(neighbours_in_groups(group), SIZE, answers)
    assert np.bincount(labels).tolist() == [SIZE] * GROUPS
