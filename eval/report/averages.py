"""The averages of a report: what each is called, and of what it is the mean.

An average is a mean of tasks, or of means where its name says so. Two that are both called
"overall" elsewhere differ by up to three points: the mean over tasks (MMEB's leaderboard:
"micro-36", the number of tasks in the name) and the mean of the means of the meta-tasks (what the
UniME paper prints: "macro-4", the number of meta-tasks). Each has its own name here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from eval.tasks.suites import Task

MMEB = ("image", "video", "visdoc")  # its "All" is the mean over the tasks of all three
Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class Average:
    """A named mean of the scores of some tasks, or of other averages.

    Attributes:
        kind: meta_task, ind, ood, micro (mean of tasks), macro (mean of meta-tasks) or all.
        parts: tasks, or other averages; each counts alike.
    """

    key: str
    label: str
    kind: str
    modality: str | None
    parts: tuple[str | Average, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that it needs."""
        nested = ((part,) if isinstance(part, str) else part.tasks for part in self.parts)
        return tuple(task for tasks in nested for task in tasks)

    def of(self, values: Mapping[str, Value]) -> Value:
        """The average of a value, or an array of them, for each task."""
        parts = [values[p] if isinstance(p, str) else p.of(values) for p in self.parts]
        mean: Value = np.mean(parts, axis=0)  # type: ignore[arg-type, assignment]
        return mean


def averages_of(suite: Mapping[str, Task]) -> dict[str, Average]:
    """Every average of a suite by its key, in the order of the report; see `overall_of`.

    Keys: ``image/vqa`` (mean of a meta-task), ``image-ind`` and ``image-ood``, ``micro-36`` and
    ``macro-4`` (of images), ``video-18``, ``visdoc-24``, ``all-78``, ``retrieval-8``, and
    ``compositional`` (SugarCrepe: the mean of Replace, Swap and Add, each the unweighted mean of
    its subsets).
    """
    found: list[Average] = []
    modalities = dict.fromkeys(task.modality for task in suite.values())
    for modality in modalities:
        found += _of_modality(modality, {n: t for n, t in suite.items() if t.modality == modality})
    together = [name for name, task in suite.items() if task.modality in MMEB]
    if len(modalities.keys() & set(MMEB)) > 1:
        key = f"all-{len(together)}"
        found.append(Average(key, f"{key} (mean of tasks)", "all", None, tuple(together)))
    return {average.key: average for average in found}


def overall_of(averages: Mapping[str, Average]) -> Average:
    """The one that a report shows first: of all of MMEB, or of the first modality."""
    kinds = ("all", "micro") if any(a.kind == "all" for a in averages.values()) else ("micro",)
    named = [a for a in averages.values() if a.kind in kinds or a.key == "compositional"]
    return next((a for a in named if a.kind == kinds[0]), named[0])


def _of_modality(modality: str, tasks: Mapping[str, Task]) -> list[Average]:
    metas = [
        Average(
            f"{modality}/{meta}", f"mean of {meta}{_count(own)}", "meta_task", modality, own
        )
        for meta in dict.fromkeys(task.meta_task for task in tasks.values())
        for own in [tuple(name for name, task in tasks.items() if task.meta_task == meta)]
    ]  # fmt: skip
    if modality == "compositional":
        label = "compositional (mean of " + ", ".join(m.key.split("/")[1] for m in metas) + ")"
        return [*metas, Average(modality, label, "macro", modality, tuple(metas))]
    found = list(metas) if len(metas) > 1 else []
    for kind, words in (("ind", "in distribution"), ("ood", "out of distribution")):
        own = tuple(name for name, task in tasks.items() if task.distribution == kind)
        if own:
            found.append(Average(f"{modality}-{kind}", words + _count(own), kind, modality, own))
    if modality == "image" and len(metas) > 1:
        label = f"macro-{len(metas)} (mean of meta-tasks)"
        found.append(Average(f"macro-{len(metas)}", label, "macro", modality, tuple(metas)))
    key = f"{'micro' if modality == 'image' else modality}-{len(tasks)}"
    found.append(Average(key, f"{key} (mean of tasks)", "micro", modality, tuple(tasks)))
    return found


def _count(tasks: tuple[str, ...]) -> str:
    """A part of a suite has averages of the same keys: how many tasks it has tells it."""
    return f" ({len(tasks)} {'task' if len(tasks) == 1 else 'tasks'})"
