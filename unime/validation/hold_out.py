"""Holds rows out of the training data, so that nothing of them is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np

from unime.config import ValidationConfig
from unime.data.datasets import PairDataset, TextDataset
from unime.errors import DataError
from unime.validation.parts import choose_parts

Dataset = TypeVar("Dataset", TextDataset, PairDataset)
LEAST = 3  # rows of a task, to tell apart


def hold_out(
    dataset: Dataset, config: ValidationConfig, seed: int
) -> tuple[Dataset, Dataset | None, str]:
    """The rows to train on, those held out (None: none are asked for), and a line about them.

    Rows that share a thing are held out together, or not at all: a thing is a text or the pictures
    of an item, whatever stands beside them, on either side. Where that leaves too few (a few labels
    connect all rows), only pictures are things, and the queries of rows without any.

    Raises:
        DataError: not even then there are as many.
    """
    if config.rows is None and config.share is None:
        return dataset, None, ""
    wanted = wanted_rows(dataset.task_sizes, config)
    task_of = np.repeat(list(wanted), list(dataset.task_sizes.values()))
    for strict in (True, False):
        held = choose(dataset.things(strict), dataset.task_sizes, wanted, seed)
        counts = Counter(task_of[sorted(held)].tolist())
        if all(
            2 * counts[task] >= count and counts[task] >= LEAST for task, count in wanted.items()
        ):
            break
    else:
        few = ", ".join(f"{task}: {counts[task]} of {count}" for task, count in wanted.items())
        raise DataError(
            f"validation: rows that share pictures or queries hang together in parts too large to"
            f" hold out so many ({few}); hold out more rows, or give validation.suite"
        )
    shared = "no text or picture of theirs is" if strict else "no picture of theirs is, texts are,"
    rest, kept = dataset.split(held, strict)
    listed = ", ".join(f"{task}: {counts[task]}" for task in wanted)
    return (
        cast(Dataset, rest),
        cast(Dataset, kept),
        f"{len(kept)} rows are held out ({listed}): {shared} trained on",
    )


def wanted_rows(task_sizes: Mapping[str, int], config: ValidationConfig) -> dict[str, int]:
    """How many rows of each task to hold out, in proportion; more than half are refused."""
    total = sum(task_sizes.values())
    share = config.share if config.share is not None else cast(int, config.rows) / total
    wanted = {task: max(LEAST, round(share * size)) for task, size in task_sizes.items()}
    for task, count in wanted.items():
        if (size := task_sizes[task]) < 2 * LEAST:
            raise DataError(
                f"validation: task {task!r} has {size} rows, {2 * LEAST - size} too few to hold"
                f" {LEAST} out and train on as many: leave it out, or give validation.suite"
                " instead"
            )
        if count > size / 2:
            raise DataError(
                f"validation: {count} rows of task {task!r} would be held out of {size}: more than"
                " half; hold out fewer"
            )
    return wanted


def choose(
    things: Sequence[Sequence[Hashable]],
    task_sizes: Mapping[str, int],
    wanted: Mapping[str, int],
    seed: int,
) -> set[int]:
    """Rows whose things no other row has, at most the `wanted` ones of each task.

    Args:
        things: of each row.
    """
    parts = _connected(things)
    task_of = np.repeat(np.arange(len(task_sizes)), list(task_sizes.values()))
    needs = [np.bincount(task_of[part], minlength=len(task_sizes)) for part in parts]
    chosen = choose_parts(needs, [wanted[task] for task in task_sizes], seed)
    return {row for number in chosen for row in parts[number]}


def _connected(things: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Rows in parts that share nothing with each other."""
    parent = list(range(len(things)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[Hashable, int] = {}
    for row, own in enumerate(things):
        for thing in own:
            parent[root(row)] = root(first.setdefault(thing, row))
    parts: dict[int, list[int]] = {}
    for row in range(len(things)):
        parts.setdefault(root(row), []).append(row)
    return list(parts.values())
