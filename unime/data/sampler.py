"""Which rows make up which global batch."""

from __future__ import annotations

import numpy as np

from unime.config import Mixing
from unime.errors import DataError


class GlobalBatchSampler:
    """The rows of every global batch as a pure function of (seed, step): equal on every rank, for
    every number of ranks, and after resuming. A rank takes its share of each batch, so that N ranks
    of B rows see exactly what one rank of N·B rows sees.

    Each epoch draws rows times `weight` rows of a task in a new order (1.0: each row once; 0.5:
    another random half in each epoch; 2.0: each twice) and leaves out what does not fill a batch.

    With ``single_task`` a batch holds distinct rows of one task, and the batches of all tasks are
    shuffled; a task has as many as its drawn rows fill. With ``mixed`` a batch is drawn from all
    tasks' rows together; there a row of a weight above 1 may come twice in one batch, where its
    copy is a duplicate of the positive and so never its negative.

    Args:
        task_sizes: rows of each task, in index order.
        weights: of each task, 1.0 where it has none.
        block: so many neighbouring rows are one to the sampler and always share a batch.

    Raises:
        DataError: a task that would never be drawn: its rows fill no batch (``mixed``: all
            together), or its weight leaves none of them; blocks that don't fill a batch.
    """

    def __init__(
        self,
        task_sizes: dict[str, int],
        global_batch_size: int,
        mixing: Mixing,
        seed: int,
        weights: dict[str, float] | None = None,
        block: int = 1,
    ):
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._block = block
        if global_batch_size % block:
            raise DataError(
                f"optim.batch_size_per_device: a batch of {global_batch_size} rows is no whole "
                f"number of {block}s, which data.rows_together keeps in one batch"
            )
        self._width = global_batch_size // block  # blocks of a batch
        self._mixed = mixing is Mixing.mixed
        self._tasks: list[tuple[int, int, int]] = []  # first block, blocks, drawn in an epoch
        first = 0
        for task, rows in task_sizes.items():
            size, weight = rows // block, (weights or {}).get(task, 1.0)
            count = round(size * weight)
            self._tasks.append((first, size, count))
            first += size
            if count == 0:
                raise DataError(
                    f"task {task!r} is never drawn: {rows} rows, weight {weight}; leave it "
                    "out, or give it more rows or a larger weight"
                )
            if not self._mixed and min(size, count) < self._width:
                raise DataError(
                    f"task {task!r} gives no batch: {rows} rows, weight {weight}, "
                    f"global batch size {global_batch_size}; leave it out, make the batch smaller, "
                    "or set data.mixing=mixed"
                )
        counts = [count for _, _, count in self._tasks]
        counts = [sum(counts)] if self._mixed else counts
        self.steps_per_epoch = sum(count // self._width for count in counts)
        if self.steps_per_epoch == 0:
            sizes = ", ".join(f"{task}: {rows}" for task, rows in task_sizes.items())
            raise DataError(
                f"no batch of {global_batch_size} rows in all tasks together ({sizes}); make "
                "optim.batch_size_per_device smaller or take more data"
            )
        self._cached: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[int]:
        """The row indices of global batch number `step` (from 0, over all epochs)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._epoch(epoch))
        first = self._cached[1][position] * self._block  # of each block
        return (first[:, None] + np.arange(self._block)).ravel().tolist()

    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch (steps_per_epoch, blocks in a batch)."""
        width, drawn = self._width, []
        for number, (offset, size, count) in enumerate(self._tasks):
            random = np.random.default_rng([self.seed, epoch, number])
            drawn.append(offset + _draw(size, count, width, random))
        random = np.random.default_rng([self.seed, epoch, len(drawn)])
        if self._mixed:
            drawn = [random.permutation(np.concatenate(drawn))]
        whole = [rows[: len(rows) // width * width].reshape(-1, width) for rows in drawn]
        return whole[0] if self._mixed else random.permutation(np.concatenate(whole))


def _draw(size: int, count: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`count` of `size` rows: one pass over all of them after another, the last one perhaps in
    part. Every `width` rows, a batch, are distinct if there are so many."""
    rows = random.permutation(size)
    while len(rows) < count:
        begun = rows[len(rows) // width * width :]  # a batch that this pass fills up
        others = np.setdiff1d(np.arange(size), begun)
        first = random.permutation(others)[: width - len(begun)]
        rest = random.permutation(np.setdiff1d(np.arange(size), first))
        rows = np.concatenate([rows, first, rest])
    return rows[:count]  # (count,)
