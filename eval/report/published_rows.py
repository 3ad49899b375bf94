"""What others report: the rows of published.yaml, each with its source.

Scores are per cent. Averages there are what their column's name says, also where the source prints
another one as overall (`printed` keeps that).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eval.report.averages import Average
from unime.errors import ConfigError

PATH = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedRow:
    """The scores of a model that a paper or a leaderboard printed.

    Attributes:
        scores: by column of its benchmark, as far as they are known, in per cent.
        printed: the average that the source prints as overall, by the column that it is.
        tasks: by task, where the source has them.
    """

    name: str
    source: str
    scores: dict[str, float]
    printed: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's published rows, and what their columns are in our reports.

    Attributes:
        columns: what each column is: the key of an average, or a task.
        tasks: those that a suite must have to be this benchmark.
    """

    title: str
    columns: dict[str, str]
    tasks: list[str]
    rows: list[PublishedRow]


@cache
def load_benchmarks() -> dict[str, Benchmark]:
    """mmeb-v1, mmeb-v2, unime-retrieval and sugarcrepe."""
    content: Any = OmegaConf.to_container(OmegaConf.load(PATH))
    found = {}
    for name, entry in content.items():
        tasks = [task for group in entry["tasks"].values() for task in group.split()]
        rows = [_row(row, tasks, entry["means"]) for row in entry["rows"]]
        found[name] = Benchmark(entry["title"], entry["columns"], tasks, rows)
    return found


def _row(row: dict[str, Any], tasks: list[str], means: dict[str, list[str]]) -> PublishedRow:
    scores, own = dict(row["scores"]), row.get("tasks")
    for column, parts in means.items():
        if column not in scores and scores.keys() >= set(parts):
            scores[column] = sum(scores[part] for part in parts) / len(parts)
    values = dict(zip(tasks, own, strict=True)) if own else {}
    return PublishedRow(**row | {"scores": scores, "tasks": values})


def published_for(
    averages: Mapping[str, Average], tasks: list[str], wanted: list[str] | None = None
) -> dict[str, Any]:
    """The benchmarks that a suite holds, with their rows, as the report has them.

    Args:
        averages, tasks: of the suite.
        wanted: names of rows; None: all.

    Raises:
        ConfigError: a name that no row has.
    """
    benchmarks = load_benchmarks()
    known = {row.name for found in benchmarks.values() for row in found.rows}
    for name in wanted or []:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"published: no row {name!r}; the nearest is {near!r}")
    return {
        key: {
            "title": found.title,
            "columns": found.columns,
            "rows": [asdict(row) for row in found.rows if wanted is None or row.name in wanted],
        }
        for key, found in benchmarks.items()
        if _is_benchmark(found, averages, set(tasks))
    }


def _is_benchmark(found: Benchmark, averages: Mapping[str, Average], tasks: set[str]) -> bool:
    """Whether the suite has its tasks, and averages only these in each column."""
    own = set(found.tasks)
    return own <= tasks and all(
        key in own or (key in averages and set(averages[key].tasks) <= own)
        for key in found.columns.values()
    )
