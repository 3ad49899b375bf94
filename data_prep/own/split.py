"""Which rows are held out: by thing, so that nothing that is held out is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_prep.own.pictures import Pictures
from data_prep.own.readers.base import Reader, SourceRow
from data_prep.own.survey import BAD, TEST, Survey, looked_at
from data_prep.own.things import things_of
from unime.config import OwnDataConfig
from unime.errors import DataError
from unime.validation.parts import choose_parts

LEAST = 3  # pairs of a task that is held out, to tell apart


@dataclass(frozen=True)
class Split:
    """What is held out.

    Attributes:
        is_test: of each row.
        sizes: task -> split -> pairs.
        remarks: what is to be said about it.
    """

    is_test: np.ndarray
    sizes: dict[str, dict[str, int]]
    remarks: list[str]


def split(found: Survey, config: OwnDataConfig, reader: Reader, pictures: Pictures) -> Split:
    """Hold rows out: those that the data name, or a share of the pairs of each task.

    Raises:
        DataError: what hangs together is too large; names what joins it.
    """
    parts = _parts(found)
    states = np.frombuffer(bytes(found.rows), np.uint8)
    rows, task_of, count = (np.array(column, np.int64) for column in found.pairs)
    needs = np.zeros((parts.max() + 1, len(found.tasks)), np.int64)
    np.add.at(needs, (parts[rows], task_of), count)
    total, remarks = needs.sum(0), list[str]()
    by_data = bool((states == TEST).any())
    if by_data:
        held = np.unique(parts[states == TEST])
        wanted = np.bincount(task_of, count * (states[rows] == TEST), len(found.tasks))
    elif config.held_out == 0:
        held, wanted = np.array([], np.int64), np.zeros(len(total), np.int64)
    else:
        wanted = np.minimum(np.maximum(LEAST, np.rint(config.held_out * total)), total // 2)
        held = np.array(choose_parts(needs, wanted.tolist(), config.seed), np.int64)
    is_test = np.isin(parts, held) & (states != BAD)
    reached = needs[held].sum(0) if len(held) else np.zeros(len(total), np.int64)
    if by_data:
        _check_split_of_data(found, wanted, reached, total)
        is_few = ((wanted == 0) & (reached > 0) & (reached < LEAST)) | (
            (reached == total) & (wanted < total)
        )
    else:
        least = LEAST * (config.held_out > 0)
        is_few = (2 * reached < wanted) | (wanted < least) | (reached == total)
    if is_few.any():
        listed = _listed(found, reached, is_few)
        raise DataError(_too_large(found, parts, listed, reader, pictures, by_data))
    if by_data and (moved := int((is_test & (states != TEST)).sum())):
        remarks.append(
            f"{moved} rows that the data give for training are held out: they share pictures,"
            " texts or groups with rows that are"
        )
    names = list(found.tasks)
    sizes = {
        name: {"train": int(total[n] - reached[n]), "test": int(reached[n])}
        for n, name in enumerate(names)
    }
    share = reached.sum() / total.sum()
    asked = "as the data say" if by_data else f"{config.held_out:.1%} asked for"
    apart = "no picture" if found.share_texts else "no picture, text or near-duplicate"
    remarks.insert(0, f"{share:.1%} of the pairs are held out ({asked}): {apart} is on both sides")
    return Split(is_test, sizes, remarks)


def _parts(found: Survey) -> np.ndarray:
    """Of each row, the number of the part that it hangs together with."""
    things, rows = found.things()
    _, numbers = np.unique(things, return_inverse=True)
    size = len(found.rows) + (numbers.max() + 1 if len(numbers) else 0)
    alike = found.alike()
    ends = (
        np.concatenate([rows, alike[:, 0]]),
        np.concatenate([len(found.rows) + numbers, alike[:, 1]]),
    )
    joined = coo_matrix((np.ones(len(ends[0]), np.bool_), ends), shape=(size, size))
    _, labels = connected_components(joined, directed=False)
    return np.unique(labels[: len(found.rows)], return_inverse=True)[1]


def _check_split_of_data(
    found: Survey, wanted: np.ndarray, reached: np.ndarray, total: np.ndarray
) -> None:
    """Refuse a task of which the data give some pairs for test, and too few to tell apart.

    Raises:
        DataError: there is one, or nothing is left to train on.
    """
    helps = "columns.split=ignore (or the column's own name) leaves the choice to held_out"
    if (wanted == total).all():
        raise DataError(f"the data give all pairs for test, and none to train on; {helps}")
    is_few = (wanted > 0) & (reached < LEAST)
    if is_few.any():
        listed = _listed(found, reached, is_few)
        raise DataError(
            f"the data give too few pairs for test ({listed}): {LEAST} of a task, or none, are"
            f" expected; {helps}"
        )


def _listed(found: Survey, reached: np.ndarray, is_few: np.ndarray) -> str:
    """The pairs that can be held out of tasks that have too few."""
    named = zip(found.tasks, reached, is_few, strict=True)
    return ", ".join(f"{name}: {count}" for name, count, few in named if few)


def _too_large(
    found: Survey,
    parts: np.ndarray,
    listed: str,
    reader: Reader,
    pictures: Pictures,
    by_data: bool,
) -> str:
    """That too few pairs can be held out, and why."""
    largest = np.bincount(parts).argmax()
    if np.bincount(parts).max() == 1:
        few = f"{len(parts)} row{'s' * (len(parts) > 1)}"
        return f"too few pairs can be held out ({listed}), of {few}: held_out=0 holds none out"
    things, rows = found.things()
    inside = parts[rows] == largest
    numbers, first, counts = np.unique(things[inside], return_index=True, return_counts=True)
    most = counts.argmax()
    row = int(rows[inside][first[most]])
    name = _named(int(numbers[most]), row, found, reader, pictures)
    size = int((parts == largest).sum())
    helps = "leave some rows apart" + ", or hold none out: held_out=0" * (not by_data)
    if name.startswith("the text") and not found.share_texts:
        helps = "where texts are labels or answers, share_texts=true lets them be on both sides"
    return (
        f"too few pairs can be held out ({listed}): {size} of {len(parts)} rows hang together, most"
        f" of all by {name}, which {counts[most]} of them show; {helps}"
    )


def _named(number: int, row: int, found: Survey, reader: Reader, pictures: Pictures) -> str:
    for place, read in enumerate(looked_at(reader, pictures, "naming")):
        if place == row and isinstance(read, SourceRow):
            own = dict(things_of(read, pictures, found.share_texts))
            return own.get(number, "something")
    return "something"
