"""No two rows of one right answer in a batch, as far as there is a choice.

Rows whose targets are equal, or whose queries are, or that name one right answer, cannot be each
other's negatives (the loss leaves them out), so that a batch of them teaches less than its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

QUERY, TARGET, ANSWER = range(3)  # columns of `answers`, of which the last may be missing
TRIES = 30  # cells that a row may change places with


def answer_ids(keys: np.ndarray) -> np.ndarray:
    """Small numbers in place of the keys of rows' queries, targets and answers (N, 2 or 3) int32:
    equal for equal keys of one column, and never in two. Answers that are not known (0) differ."""
    rows = len(keys)
    sides = [np.unique(side, return_inverse=True)[1] + rows * n for n, side in enumerate(keys.T)]
    if len(sides) > ANSWER:
        sides[ANSWER] = np.where(keys[:, ANSWER] == 0, _alone(rows), sides[ANSWER])
    return np.stack(sides, axis=1).astype(np.int32)


def _alone(rows: int) -> np.ndarray:
    """A number for each row that no other has (N,)."""
    return np.arange(rows) + rows * (ANSWER + 1)


class Answers:
    """The right answers of rows, and batches made so that none comes twice in one.

    Args:
        keys: of each row's query and target (N, 2), equal for equal items; and of its right answer
            (N, 3), 0 where it is not known.
        pool_of: rows may change places within their pool (N,): a task where batches are of one.
    """

    def __init__(self, keys: np.ndarray, pool_of: np.ndarray) -> None:
        self._ids = answer_ids(keys)
        self._pool_of = pool_of
        self._dealt = self._ids[:, TARGET]  # by what rows are dealt out first
        if keys.shape[1] > ANSWER:
            self._dealt = np.where(keys[:, ANSWER] == 0, self._dealt, self._ids[:, ANSWER])

    def spread(self, batches: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The same rows in batches (B, W) anew, a pool's where its rows were: those of one answer,
        and among them those of one target, are dealt out to one batch after another, and what still
        meets changes places."""
        cells = batches.T.ravel()  # every batch's first row, then every batch's second, …
        dealt = cells.copy()
        pools = self._pool_of[cells]
        order_of_row = random.permutation(len(self._ids))
        for pool in np.unique(pools):
            places = np.flatnonzero(pools == pool)
            rows = cells[places]
            _, group = np.unique(self._dealt[rows], return_inverse=True)
            order_of_group = random.permutation(group.max() + 1)
            target = self._ids[rows, TARGET]
            order = np.lexsort((order_of_row[rows], target, order_of_group[group]))
            dealt[places] = rows[order]
        return self.swapped(dealt.reshape(batches.shape[::-1]).T.copy(), 1, random)

    def swapped(self, batches: np.ndarray, unit: int, random: np.random.Generator) -> np.ndarray:
        """Batches (B, W) in which units that meet what they share an answer with have changed
        places with others of their pool, where that helps.

        Args:
            unit: neighbouring rows of a batch that stay together.
        """
        firsts = self._pool_of[batches[:, ::unit]]  # (B, W / unit)
        most = {pool: int((firsts == pool).any(axis=1).sum()) for pool in np.unique(firsts)}
        ids = self._avoidable(batches, most)
        swapping = _Swapping(batches, ids, unit)
        for pool, cells in self._meeting(batches, unit, firsts, ids, most).items():
            others = np.argwhere(firsts == pool)
            chosen = random.integers(len(others), size=(len(cells), TRIES))
            for cell, tries in zip(cells, chosen, strict=True):
                swapping.place(cell, others[tries].tolist())
        return swapping.batches

    def met(self, batches: np.ndarray) -> np.ndarray:
        """Which rows of batches (B, W) share an answer with one before them."""
        return _met(batches, self._ids)

    def _avoidable(self, batches: np.ndarray, most: Mapping[int, int]) -> np.ndarray:
        """The rows' numbers (N, 2 or 3), without answers of more rows than their pool has batches:
        nobody can keep these apart, and queries and targets are kept apart all the same.

        Args:
            most: batches of each pool.
        """
        if self._ids.shape[1] <= ANSWER:
            return self._ids
        ids = self._ids.copy()
        counts = np.bincount(ids[batches.ravel(), ANSWER], minlength=ids[:, ANSWER].max() + 1)
        of_pool = np.zeros(self._pool_of.max() + 1, np.int64)
        of_pool[list(most)] = list(most.values())
        is_common = counts[ids[:, ANSWER]] > of_pool[self._pool_of]
        ids[is_common, ANSWER] = _alone(len(ids))[is_common]
        return ids

    def _meeting(
        self,
        batches: np.ndarray,
        unit: int,
        firsts: np.ndarray,
        ids: np.ndarray,
        most: Mapping[int, int],
    ) -> dict[int, list[tuple[int, int]]]:
        """The units (batch, number) of each pool that meet what they share an answer with, which
        may be avoided: of an answer that has more rows than the pool has batches it cannot."""
        found: dict[int, list[tuple[int, int]]] = {}
        counts = np.bincount(ids[batches].ravel())
        for batch, place in np.argwhere(_met(batches, ids)).tolist():
            cell = batch, place // unit
            pool = int(firsts[cell])
            if counts[ids[batches[batch, place]]].max() <= most[pool]:
                found.setdefault(pool, []).append(cell)
        return {pool: list(dict.fromkeys(cells)) for pool, cells in found.items()}


def _met(batches: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Which rows of batches (B, W) share a number with one before them."""
    found = np.zeros(batches.shape, dtype=bool)
    for side in ids.T:
        own = side[batches]
        order = own.argsort(axis=1, kind="stable")
        own = np.take_along_axis(own, order, 1)
        again = np.zeros_like(found)
        np.put_along_axis(again, order[:, 1:], own[:, 1:] == own[:, :-1], 1)
        found |= again
    return found


class _Swapping:
    """Batches whose units change places; what is in a batch is counted when it is first asked."""

    def __init__(self, batches: np.ndarray, ids: np.ndarray, unit: int) -> None:
        self.batches = batches
        self._ids = ids
        self._unit = unit
        self._counts: dict[int, Counter[int]] = {}

    def place(self, cell: tuple[int, int], others: Sequence[tuple[int, int]]) -> None:
        """Let a unit change places with the first of the others that fits as it does."""
        own = self._held(cell)
        inside = self._counted(cell[0])
        if all(inside[key] == 1 for key in own):
            return  # what it met has gone
        for other in others:
            theirs = self._held(other)
            if other[0] == cell[0] or not (
                self._fits(theirs, cell[0], own) and self._fits(own, other[0], theirs)
            ):
                continue
            one, two = self._rows(cell), self._rows(other)
            self.batches[one], self.batches[two] = self.batches[two], self.batches[one].copy()
            for batch, left, came in ((cell[0], own, theirs), (other[0], theirs, own)):
                self._counts[batch].subtract(left)
                self._counts[batch].update(came)
            return

    def _rows(self, cell: tuple[int, int]) -> tuple[int, slice]:
        return cell[0], slice(cell[1] * self._unit, (cell[1] + 1) * self._unit)

    def _held(self, cell: tuple[int, int]) -> list[int]:
        found: list[int] = self._ids[self.batches[self._rows(cell)]].ravel().tolist()
        return found

    def _counted(self, batch: int) -> Counter[int]:
        if batch not in self._counts:
            self._counts[batch] = Counter(self._ids[self.batches[batch]].ravel().tolist())
        return self._counts[batch]

    def _fits(self, coming: list[int], batch: int, leaving: list[int]) -> bool:
        inside = self._counted(batch)
        gone = Counter(leaving)
        return all(inside[key] == gone[key] for key in coming)
