"""Which rows make up which global batch."""

from __future__ import annotations

import numpy as np

from unime.config import Mixing
from unime.items import DataError


class GlobalBatchSampler:
    """The rows of every global batch as a pure function of (seed, step): equal on every rank, for
    every number of ranks, and after resuming. A rank takes its share of each batch, so that N ranks
    of B rows see exactly what one rank of N·B rows sees.

    Each epoch draws every row of a task `weight` times in a new order (1.0: once; 0.5: another
    random half in each epoch; 2.0: twice, in different batches) and leaves out what does not fill a
    batch. With ``single_task`` a batch holds rows of one task and the batches of all tasks are
    shuffled, so a task comes up in proportion to its rows times its weight; with ``mixed`` a batch
    is drawn from all rows.
    """

    def __init__(
        self,
        task_sizes: dict[str, int],
        global_batch_size: int,
        mixing: Mixing,
        seed: int,
        weights: dict[str, float] | None = None,
    ):
        """
        Args:
            task_sizes: rows of each task, in index order.
            weights: of each task, 1.0 where it has none.

        Raises:
            DataError: a task (``mixed``: all together) that does not fill one batch.
        """
        self.global_batch_size = global_batch_size
        self.seed = seed
        weights = weights or {}
        offsets = np.cumsum([0, *task_sizes.values()])
        # A part is (first row, rows, rows drawn of them in an epoch); rows are distinct in a part.
        self._parts: list[tuple[int, int, int]] = []
        for offset, (task, size) in zip(offsets.tolist(), task_sizes.items(), strict=False):
            drawn = _drawn(size, weights.get(task, 1.0))
            self._parts += [(offset, size, count) for count in drawn]
            batches = sum(count // global_batch_size for count in drawn)
            if mixing is Mixing.single_task and batches == 0:
                raise DataError(
                    f"task {task!r} gives no batch: {size} rows, weight {weights.get(task, 1.0)}, "
                    f"global batch size {global_batch_size}; leave it out, make the batch smaller, "
                    "or set data.mixing=mixed"
                )
        self._mixed = mixing is Mixing.mixed
        counts = [count for _, _, count in self._parts]
        self.steps_per_epoch = (
            sum(counts) // global_batch_size
            if self._mixed
            else sum(count // global_batch_size for count in counts)
        )
        if self.steps_per_epoch == 0:
            sizes = ", ".join(f"{task}: {size}" for task, size in task_sizes.items())
            raise DataError(f"no batch of {global_batch_size} rows in all tasks together ({sizes})")
        self._cached: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[int]:
        """The row indices of global batch number `step` (from 0, over all epochs)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._epoch(epoch))
        return self._cached[1][position].tolist()

    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch (steps_per_epoch, global_batch_size)."""
        parts = []
        for number, (offset, size, count) in enumerate(self._parts):
            random = np.random.default_rng([self.seed, epoch, number])
            parts.append(offset + random.permutation(size)[:count])
        size = self.global_batch_size
        random = np.random.default_rng([self.seed, epoch, len(parts)])
        if self._mixed:
            rows = random.permutation(np.concatenate(parts))
            return rows[: len(rows) // size * size].reshape(-1, size)
        batches = [part[: len(part) // size * size].reshape(-1, size) for part in parts]
        return random.permutation(np.concatenate(batches))


def _drawn(size: int, weight: float) -> list[int]:
    """How a task of `size` rows is drawn in an epoch: whole passes, then the rest of the weight."""
    rest = round(size * (weight % 1))
    return [size] * int(weight) + ([rest] if rest else [])
