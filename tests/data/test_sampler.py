"""Which rows make up which batch.

./launch.sh test tests/data/test_sampler.py
"""

from __future__ import annotations

from collections import Counter

import pytest

from unime.config import Mixing
from unime.data.sampler import GlobalBatchSampler
from unime.errors import DataError

SIZES = {"a": 40, "b": 19, "c": 8}
STARTS = {"a": 0, "b": 40, "c": 59}


def task_of(row: int) -> str:
    return max((start, task) for task, start in STARTS.items() if row >= start)[1]


def epoch(sampler: GlobalBatchSampler, number: int = 0) -> list[list[int]]:
    steps = sampler.steps_per_epoch
    return [sampler.batch(number * steps + step) for step in range(steps)]


@pytest.mark.parametrize("mixing", [Mixing.single_task, Mixing.mixed])
def test_rows_of_a_block_share_a_batch(mixing: Mixing) -> None:
    sampler = GlobalBatchSampler({"text": 31}, 6, mixing, seed=0, block=3)
    batches = epoch(sampler)
    assert len(batches) == 31 // 3 // 2
    for batch in batches:
        assert len(batch) == sampler.global_batch_size == 6
        assert [row // 3 for row in batch[::3]] == [row // 3 for row in batch[2::3]]
        assert [row % 3 for row in batch] == [0, 1, 2] * 2
    seen = [row for batch in batches for row in batch]
    assert len(set(seen)) == len(seen) and max(seen) < 30
    assert batches != epoch(sampler, 1)
    with pytest.raises(DataError, match="a batch of 8 rows is no whole number of 3s"):
        GlobalBatchSampler({"text": 31}, 8, mixing, seed=0, block=3)


def test_single_task_batches() -> None:
    sampler = GlobalBatchSampler(SIZES, 8, Mixing.single_task, seed=0)
    batches = epoch(sampler)
    assert sampler.steps_per_epoch == len(batches) == 5 + 2 + 1
    assert all(len(batch) == 8 for batch in batches)
    assert all(len({task_of(row) for row in batch}) == 1 for batch in batches)
    tasks = [task_of(batch[0]) for batch in batches]
    assert Counter(tasks) == {"a": 5, "b": 2, "c": 1}
    assert tasks != sorted(tasks), "the tasks are not interleaved"
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows), "a row came twice in an epoch"
    assert set(range(40)) <= set(rows)
    assert set(rows) <= set(range(67))


def test_mixed_batches() -> None:
    sampler = GlobalBatchSampler(SIZES, 8, Mixing.mixed, seed=0)
    rows = [row for batch in epoch(sampler) for row in batch]
    assert len(rows) == len(set(rows)) == 64
    assert any(len({task_of(row) for row in batch}) > 1 for batch in epoch(sampler))


@pytest.mark.parametrize("mixing", [Mixing.single_task, Mixing.mixed])
def test_batches_are_a_function_of_seed_and_step(mixing: Mixing) -> None:
    def sampler(seed: int = 0) -> GlobalBatchSampler:
        return GlobalBatchSampler(SIZES, 8, mixing, seed)

    first = sampler()
    straight = [first.batch(step) for step in range(20)]  # two and a half epochs
    resumed = sampler()
    assert [resumed.batch(step) for step in range(13, 20)] == straight[13:]
    assert [resumed.batch(step) for step in (3, 17, 0)] == [straight[n] for n in (3, 17, 0)]
    assert epoch(sampler(), 0) != epoch(sampler(), 1)
    assert epoch(sampler(), 0) != epoch(sampler(seed=1), 0)
    assert all(type(row) is int for row in straight[0])


def test_weights_repeat_and_thin_rows() -> None:
    weights = {"a": 0.5, "b": 2.0, "c": 1.5}
    sampler = GlobalBatchSampler(SIZES, 4, Mixing.single_task, 0, weights)
    batches = epoch(sampler)
    assert all(len(set(batch)) == 4 for batch in batches), "a row came twice in a batch"
    assert Counter(task_of(batch[0]) for batch in batches) == {"a": 5, "b": 9, "c": 3}
    counts = Counter(row for batch in batches for row in batch)
    assert max(counts[row] for row in range(40)) == 1
    assert max(counts[row] for row in range(40, 59)) == 2
    halves = [{row for batch in epoch(sampler, n) for row in batch if row < 40} for n in range(2)]
    assert [len(half) for half in halves] == [20, 20]
    assert halves[0] != halves[1], "every epoch draws the same half"
    mixed = GlobalBatchSampler(SIZES, 4, Mixing.mixed, 0, weights)
    assert mixed.steps_per_epoch == (20 + 38 + 12) // 4


@pytest.mark.parametrize(
    ("weight", "batches"), [(0.7, 1), (1.0, 1), (1.5, 2), (2.0, 3), (2.6, 4), (5.12, 8)]
)
def test_a_weight_counts_in_rows_not_in_passes(weight: float, batches: int) -> None:
    """100 rows at weight 1.5 fill two batches of 64; each pass floored alone would fill one."""
    sampler = GlobalBatchSampler({"a": 100}, 64, Mixing.single_task, 0, {"a": weight})
    assert sampler.steps_per_epoch == batches
    drawn = epoch(sampler, 3)
    assert all(len(set(batch)) == 64 for batch in drawn), "a row came twice in a batch"
    counts = Counter(row for batch in drawn for row in batch)
    spread = max(counts.values()) - min(counts[row] for row in range(100))
    assert spread <= 2, "one row is drawn far more often than another"


def test_rows_beyond_whole_passes_are_equally_likely() -> None:
    sampler = GlobalBatchSampler({"a": 20}, 8, Mixing.single_task, 0, {"a": 2.4})
    counts = Counter(row for n in range(500) for batch in epoch(sampler, n) for row in batch)
    assert sum(counts.values()) == 500 * 48
    assert min(counts.values()) > 0.95 * 1200 and max(counts.values()) < 1.05 * 1200


def test_a_weight_that_leaves_no_row() -> None:
    for mixing in (Mixing.single_task, Mixing.mixed):
        with pytest.raises(DataError, match=r"task 'c' is never drawn: 8 rows, weight 0.05; leave"):
            GlobalBatchSampler(SIZES, 4, mixing, 0, {"c": 0.05})


def test_tasks_that_fill_no_batch() -> None:
    with pytest.raises(DataError, match="'c' gives no batch: 8 rows, .*, global batch size 16;"):
        GlobalBatchSampler(SIZES, 16, Mixing.single_task, 0)
    assert GlobalBatchSampler(SIZES, 16, Mixing.mixed, 0).steps_per_epoch == 4
    with pytest.raises(DataError, match="no batch of 68 rows in .* .a: 40, b: 19, c: 8."):
        GlobalBatchSampler(SIZES, 68, Mixing.mixed, 0)
    with pytest.raises(DataError, match="no batch of 128 rows in all tasks .* .text: 100."):
        GlobalBatchSampler({"text": 100}, 128, Mixing.mixed, 0, block=2)


def test_a_million_rows_cost_nothing_to_resume() -> None:
    sampler = GlobalBatchSampler({"a": 600_000, "b": 400_000}, 1024, Mixing.single_task, 0)
    assert len(set(sampler.batch(100 * sampler.steps_per_epoch + 7))) == 1024
