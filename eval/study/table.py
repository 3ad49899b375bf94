"""One Parquet file of a study: a row a cell, made anew from what lies on the disk.

==================  ========================================================================
recipe, seed        and ``grid/KEY`` for every key of the grid (what is no number as a text)
status, reason      done, failed or not run
score/TASK          and ``average/KEY`` (eval/report/averages.py), ``hits/TASK``: of each query
alignment/TASK      and ``uniformity/TASK``, ``gap/TASK`` (eval/study/space.py)
seconds             and ``cpu_seconds``, of all steps; ``seconds/STEP`` of each
STAGE/METRIC        the last line of metrics.jsonl; ``curve/STAGE/METRIC``: of all lines
cell, folder        the evaluation's name and folder; commit, versions, hardware of it
==================  ========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.report.averages import averages_of
from eval.report.comparable import read_results, scored
from eval.study.marks import DONE, Marks
from eval.study.plan import Cell
from eval.study.settings import STAGES
from eval.study.space import space_of
from eval.study.words import typed
from eval.tasks.suites import load_suite
from unime.errors import DataError
from unime.runtime.files import replacing
from unime.training.metrics import read_lines

CURVES = ("step", "loss", "grad_norm", "filtered_share", "mean_similarity", "effective_rank")
Row = dict[str, Any]


def row_of(cell: Cell, study: str, marks: Marks) -> Row:
    """A cell as it is now.

    Raises:
        DataError: what a step wrote is damaged.
    """
    status, reason = marks.state(cell)
    row: Row = {"study": study, "recipe": cell.recipe, "seed": cell.seed}
    row |= {"status": status, "reason": reason, "cell": cell.identity}
    for key, value in cell.values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        row[f"grid/{key}"] = float(value) if is_number else typed(value)
    row |= _costs(cell, marks)
    for step in cell.steps:
        if step.kind in STAGES:
            row |= _metrics(step.kind, step.folder / "metrics.jsonl")
    if status == DONE:
        evaluation = cell.steps[-1]
        row |= _scores(
            evaluation.folder, evaluation.config.data.suite, evaluation.config.data.tasks
        )
        row["folder"] = str(evaluation.folder)
    return row


def _costs(cell: Cell, marks: Marks) -> Row:
    known = {step.kind: mark for step in cell.steps if (mark := marks.of(step)) is not None}
    row: Row = {}
    for key in ("seconds", "cpu_seconds"):
        each = {f"{key}/{kind}": getattr(mark, key) for kind, mark in known.items()}
        row |= each | ({key: sum(each.values())} if each else {})
    return row


def _metrics(stage: str, path: Path) -> Row:
    lines = read_lines(path) if path.is_file() else []
    if not lines:
        return {}
    numbers = {k: float(v) for k, v in lines[-1].items() if isinstance(v, int | float)}
    row: Row = {f"{stage}/{key}": value for key, value in numbers.items()}
    for key in CURVES:
        if any(key in line for line in lines):
            row[f"curve/{stage}/{key}"] = [_number(line.get(key)) for line in lines]
    return row


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _scores(folder: Path, suite_file: str, tasks: list[str] | None) -> Row:
    suite = load_suite(suite_file, tasks)
    results = read_results(folder.name, folder, suite)
    scores = {task: found.score for task, found in scored(results).items()}
    row: Row = {f"score/{task}": score for task, score in scores.items()}
    for key, average in averages_of(suite).items():
        if set(average.tasks) <= scores.keys():
            row[f"average/{key}"] = float(average.of(scores))
    for task, found in scored(results).items():
        row[f"hits/{task}"] = [float(value) for value in found.values]
        row |= {f"{k}/{task}": getattr(found, k) for k in ("mean_similarity", "effective_rank")}
        row |= space_of(folder, task, suite[task].modality)
    first = next(iter(results.values()))
    row |= {"commit": first.commit, "hardware": first.device}
    return row | {"versions": json.dumps(first.versions), "suite": suite_file}


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Whole, or what was there stays."""
    found = list(rows)
    names = list(dict.fromkeys(key for row in found for key in row))
    columns = {name: [row.get(name) for row in found] for name in names}
    for name, values in columns.items():
        if name.startswith("grid/") and any(isinstance(value, str) for value in values):
            columns[name] = [None if v is None else v if isinstance(v, str) else f"{v:g}"
                             for v in values]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def read_table(path: Path) -> list[Row]:
    """The rows, each with what it has.

    Raises:
        DataError: there is no such file, or it is no study's.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; ./launch.sh study NAME writes it")
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot read it: {error}") from None
    if rows and not {"recipe", "seed", "status"} <= rows[0].keys():
        raise DataError(f"{path}: not the table of a study")
    return [{key: value for key, value in row.items() if value is not None} for row in rows]
