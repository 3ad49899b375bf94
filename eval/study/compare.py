"""What a study's recipes reach, and what lies between two of them: means over seeds with 95 %
intervals over seeds and queries (eval/bootstrap.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from eval.bootstrap import Draws, Estimate
from eval.report.averages import Average, averages_of, overall_of
from eval.study.marks import DONE
from eval.study.settings import StudyConfig, name_of
from eval.study.table import Row
from eval.study.words import shown
from eval.tasks.suites import Task, load_suite
from unime.errors import DataError

SAMPLES, SEED = 10_000, 0
HITS, GRID = "hits/", "grid/"


@dataclass(eq=False)
class Arm:
    """The cells of a study that differ by their seed alone.

    Attributes:
        values: key of the grid -> its value as a text.
        hits: task -> seed -> of each query.
        known: what was drawn of it, and of it beside others.
    """

    name: str
    recipe: str
    values: dict[str, str]
    rows: list[Row]
    known: dict[str, Draws] = field(default_factory=dict)

    @cached_property
    def hits(self) -> dict[str, dict[int, list[float]]]:
        tasks = [key.removeprefix(HITS) for key in self.rows[0] if key.startswith(HITS)]
        return {task: {row["seed"]: row[HITS + task] for row in self.rows} for task in tasks}

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.rows]


def arms_of(rows: Sequence[Row]) -> list[Arm]:
    """The finished cells of a table, by recipe and grid."""
    found: dict[str, Arm] = {}
    short = short_keys(
        key.removeprefix(GRID) for row in rows for key in row if key.startswith(GRID)
    )
    for row in rows:
        if row["status"] != DONE:
            continue
        values = {k.removeprefix(GRID): shown(v) for k, v in row.items() if k.startswith(GRID)}
        told = (f"{short[key]}={value}" for key, value in values.items())
        name = " ".join([row["recipe"], *told])
        found.setdefault(name, Arm(name, row["recipe"], values, [])).rows.append(row)
    return list(found.values())


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Settings by the last part of their names, where that means one of them."""
    all_keys = set(keys)
    last = {key: key.rpartition(".")[2] for key in all_keys}
    return {key: last[key] if list(last.values()).count(last[key]) == 1 else key
            for key in all_keys}  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What arms are compared to: the arm of a recipe that has these values of the grid, and else
    their own.

    Attributes:
        recipe: None: that of the arm.
    """

    recipe: str | None
    values: Mapping[str, Any]

    @classmethod
    def of_study(cls, study: StudyConfig) -> Reference:
        """What a study names, or else its first recipe; of one that names values alone each
        recipe's own arm."""
        if study.baseline is None and study.reference:
            return cls(None, study.reference)
        return cls(name_of(study.baseline or study.recipes[0]), study.reference)

    @property
    def label(self) -> str:
        """What it is called in a title."""
        short = short_keys(self.values)
        values = [f"{short[key]}={shown(value)}" for key, value in self.values.items()]
        return " ".join([*([self.recipe] if self.recipe else []), *values])

    def of(self, arm: Arm, arms: Sequence[Arm]) -> Arm | None:
        """None: there is no such arm, or it is this one."""
        wanted = arm.values | {key: shown(value) for key, value in self.values.items()}
        for other in arms:
            fits = all(wanted.get(key) == value for key, value in other.values.items())
            if other.recipe == (self.recipe or arm.recipe) and fits:
                return None if other is arm else other
        return None


def averages(rows: Sequence[Row]) -> dict[str, Average]:
    """Those of the suite that the finished cells were evaluated on.

    Raises:
        DataError: they are of several suites.
    """
    suites = {row["suite"] for row in rows if row["status"] == DONE}
    if len(suites) > 1:
        raise DataError(f"cells of several suites: {', '.join(sorted(suites))}")
    tasks: Mapping[str, Task] = load_suite(suites.pop()) if suites else {}
    measured = {key.removeprefix(HITS) for row in rows for key in row if key.startswith(HITS)}
    return averages_of({name: task for name, task in tasks.items() if name in measured})


def overall(rows: Sequence[Row]) -> Average:
    """The first of all."""
    return overall_of(averages(rows))


def reached(arm: Arm, average: Average) -> Estimate:
    """What an arm reaches: shares, whose interval ends at 0 and 1."""
    if "" not in arm.known:
        found = {task: np.array([*own.values()], dtype=float) for task, own in arm.hits.items()}
        arm.known[""] = Draws.of(found, SAMPLES, SEED)
    estimate = arm.known[""].estimate(average.of)
    low, high = estimate.ci95
    return replace(estimate, ci95=[max(0.0, low), min(1.0, high)])


def difference(one: Arm, other: Arm, average: Average) -> Estimate | None:
    """By how much one arm is better than another, on the same queries with the same seeds; None:
    they have no seed in common.

    Raises:
        DataError: other queries.
    """
    if not set(one.seeds) & set(other.seeds):
        return None
    if other.name not in one.known:
        one.known[other.name] = Draws.of(_paired(one, other), SAMPLES, SEED)
    return one.known[other.name].estimate(average.of)


def _paired(one: Arm, other: Arm) -> dict[str, np.ndarray]:
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    paired = {}
    for task in [task for task in one.hits if task in other.hits]:
        a, b = ([arm.hits[task][seed] for seed in seeds] for arm in (one, other))
        if [*map(len, a)] != [*map(len, b)]:
            raise DataError(f"{one.name} and {other.name}: other queries of {task}")
        paired[task] = np.subtract(a, b, dtype=float)  # (S, Q)
    return paired


def in_words(estimate: Estimate | None, unit: str = " points") -> str:
    """A difference as a sentence has it: "+1.9 points (0.4 to 3.3)", or that it is noise."""
    if estimate is None:
        return "no seed in common"
    low, high = (100 * end for end in estimate.ci95)
    said = f"{100 * estimate.value:+.1f}{unit} ({low:+.1f} to {high:+.1f})"
    said += ", within noise" if estimate.is_noise else ""
    return said + (" over queries alone: one seed" if len(estimate.seeds) == 1 else "")
