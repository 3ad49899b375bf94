"""Which rows make up which global batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unime.config import Mixing
from unime.data.sampling.answers import Answers
from unime.data.sampling.clusters import Clusters, rows_in_clusters
from unime.errors import DataError

OF_ONE_TASK = (Mixing.single_task, Mixing.mined)


@dataclass(frozen=True)
class BatchPlan:
    """What makes batches teach, beside the kind of mixing.

    Attributes:
        temperature: T; a task's share of the rows is in proportion to (rows · weight)^(1/T)
            (temperature-scaled mixing: T5, arXiv 1910.10683, 3.5.2).
        sub_batch: rows of one task that stand together in an interleaved batch.
        answers: keys of each row's query and target (N, 2), and of its right answer where rows name
            it (N, 3); rows that share one share no batch, as far as there is a choice. None: they
            may.
        clusters: of mined batches, with answers' keys.
    """

    temperature: float = 1.0
    sub_batch: int | None = None
    answers: np.ndarray | None = None
    clusters: Clusters | None = None
    shared_answers: bool = True


class GlobalBatchSampler:
    """The rows of every global batch as a pure function of (seed, step): equal on every rank, for
    every number of ranks, and after resuming. A rank takes its share of each batch, so that N ranks
    of B rows see exactly what one rank of N·B rows sees.

    Each epoch draws rows times `weight` rows of a task in a new order (1.0: each row once; 0.5:
    another random half in each epoch; 2.0: each twice) and leaves out what does not fill a batch.

    With ``single_task`` a batch holds distinct rows of one task, and the batches of all tasks are
    shuffled; a task has as many as its drawn rows fill. With ``mixed`` a batch is drawn from all
    tasks' rows together; there a row of a weight above 1 may come twice in one batch, where its
    copy is a duplicate of the positive and so never its negative. ``interleaved`` batches consist
    of sub-batches, each of one task (VLM2Vec-V2, arXiv 2507.04590), shuffled. ``mined`` ones are of
    one task and consist of clusters of rows that are hard for one another (B3, arXiv 2505.11293).

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
        task_sizes: Mapping[str, int],
        global_batch_size: int,
        mixing: Mixing,
        seed: int,
        weights: Mapping[str, float] | None = None,
        block: int = 1,
        plan: BatchPlan | None = None,
    ):
        self.global_batch_size = global_batch_size
        self.seed = seed
        plan = plan or BatchPlan()
        self._order: np.ndarray | None = None  # the rows in clusters
        name = "data.rows_together"
        if mixing is Mixing.mined:
            assert plan.clusters is not None and plan.answers is not None
            block, name = plan.clusters.size, "data.clusters"
            self._order, task_sizes = rows_in_clusters(plan.clusters, task_sizes, plan.answers)
        self._block = block
        self._width = _in_batch(global_batch_size, block, name)  # blocks of a batch
        self._mixing = mixing
        self._run = self._width  # blocks of one task that stand together
        if mixing is Mixing.interleaved:
            self._run = plan.sub_batch or 1
            _in_batch(global_batch_size, self._run, "data.sub_batch")
        elif mixing is Mixing.mixed:
            self._run = 1
        counts = drawn_rows({t: n // block for t, n in task_sizes.items()}, weights, plan)
        self._tasks: list[tuple[int, int, int]] = []  # first block, blocks, drawn in an epoch
        first = 0
        for task, rows in task_sizes.items():
            size, count = rows // block, counts[task]
            self._tasks.append((first, size, count))
            first += size
            self._check_task(task, rows, count, (weights or {}).get(task, 1.0))
        self.steps_per_epoch = self._steps()
        if self.steps_per_epoch == 0:
            sizes = ", ".join(f"{task}: {rows}" for task, rows in task_sizes.items())
            raise DataError(
                f"no batch of {global_batch_size} rows in all tasks together ({sizes}); make "
                "optim.batch_size_per_device smaller or take more data"
            )
        self._answers: Answers | None = None
        if plan.answers is not None and not plan.shared_answers:
            self._answers = Answers(plan.answers, self._pools(task_sizes, len(plan.answers)))
        self._cached: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> list[int]:
        """The row indices of global batch number `step` (from 0, over all epochs)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._rows(epoch)[position].tolist()

    def sharing(self) -> tuple[int, int]:
        """How many rows of the first epoch share their right answer with one before them in their
        batch, where that was to be avoided, and of how many."""
        rows = self._rows(0)
        return (int(self._answers.met(rows).sum()) if self._answers else 0), rows.size

    def _rows(self, epoch: int) -> np.ndarray:
        """All batches of an epoch (steps_per_epoch, rows in a batch)."""
        if self._cached is None or self._cached[0] != epoch:
            first = self._epoch(epoch) * self._block  # of each block
            rows = (first[:, :, None] + np.arange(self._block)).reshape(len(first), -1)
            rows = rows if self._order is None else self._order[rows]
            if self._answers is not None:
                random = np.random.default_rng([self.seed, epoch, len(self._tasks), 1])
                if self._block > 1:
                    rows = self._answers.swapped(rows, self._block, random)
                else:
                    rows = self._answers.spread(rows, random)
            self._cached = (epoch, rows)
        return self._cached[1]

    def _epoch(self, epoch: int) -> np.ndarray:
        """All batches of an epoch (steps_per_epoch, blocks in a batch)."""
        drawn = []
        for number, (offset, size, count) in enumerate(self._tasks):
            random = np.random.default_rng([self.seed, epoch, number])
            drawn.append(offset + _draw(size, count, self._least, random))
        random = np.random.default_rng([self.seed, epoch, len(drawn)])
        if self._mixing is Mixing.mixed:
            drawn = [random.permutation(np.concatenate(drawn))]
        length = self._least
        runs = np.concatenate([rows[: len(rows) // length * length].reshape(-1, length)
                               for rows in drawn])  # fmt: skip
        if self._mixing is Mixing.mixed:
            return runs
        runs = random.permutation(runs)
        return runs.reshape(-1)[: self.steps_per_epoch * self._width].reshape(-1, self._width)

    @property
    def _least(self) -> int:
        """Blocks of one task that are drawn for one batch together."""
        return self._width if self._mixing is Mixing.mixed else self._run

    def _steps(self) -> int:
        counts = [count for _, _, count in self._tasks]
        if self._mixing is Mixing.mixed:
            return sum(counts) // self._width
        return sum(count // self._run for count in counts) * self._run // self._width

    def _check_task(self, task: str, rows: int, count: int, weight: float) -> None:
        if count == 0:
            raise DataError(
                f"task {task!r} is never drawn: {rows} rows, weight {weight}; leave it "
                "out, or give it more rows or a larger weight"
            )
        if min(rows // self._block, count) < self._run:
            length = self._run * self._block
            of = "" if length == self.global_batch_size else f" of sub-batches of {length}"
            raise DataError(
                f"task {task!r} gives no batch{of}: {rows} rows, weight {weight}, "
                f"global batch size {self.global_batch_size}; leave it out, make the batch smaller,"
                " or set data.mixing=mixed"
            )

    def _pools(self, task_sizes: Mapping[str, int], rows: int) -> np.ndarray:
        """Within which rows may change places (N,): those of a task, or all of mixed batches."""
        if self._mixing is Mixing.mixed:
            return np.zeros(rows, dtype=np.int32)
        tasks = np.repeat(np.arange(len(task_sizes)), list(task_sizes.values())).astype(np.int32)
        if self._order is None:
            return tasks
        pools = np.zeros(rows, dtype=np.int32)
        pools[self._order] = tasks
        return pools


def drawn_rows(
    sizes: Mapping[str, int], weights: Mapping[str, float] | None, plan: BatchPlan
) -> dict[str, int]:
    """How many rows (or blocks) of each task an epoch draws: as many of all together as their
    weights ask for."""
    asked = {task: size * (weights or {}).get(task, 1.0) for task, size in sizes.items()}
    if plan.temperature == 1.0:
        return {task: round(rows) for task, rows in asked.items()}
    tempered = {task: rows ** (1 / plan.temperature) for task, rows in asked.items()}
    factor = sum(asked.values()) / sum(tempered.values())
    return {task: round(rows * factor) for task, rows in tempered.items()}


def _in_batch(rows: int, length: int, key: str) -> int:
    if rows % length:
        raise DataError(
            f"optim.batch_size_per_device: a batch of {rows} rows is no whole "
            f"number of {length}s, which {key} keeps in one batch"
        )
    return rows // length


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
