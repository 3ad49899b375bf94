"""A row of a study's table: what a cell's steps have left on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.report.averages import averages_of
from eval.report.comparable import read_results, scored
from eval.study.marks import DONE, FAILED, Marks
from eval.study.plan import Cell
from eval.study.space import space_of
from eval.study.table import Row
from eval.study.words import typed
from eval.tasks.suites import load_suite
from unime.errors import DataError
from unime.training.metrics import read_lines

CURVES = ("step", "loss", "grad_norm", "filtered_share", "mean_similarity", "effective_rank")


def row_of(cell: Cell, study: str, marks: Marks) -> Row:
    """A cell as it is now; one whose results are damaged has failed."""
    status, reason = marks.state(cell)
    row: Row = {"study": study, "recipe": cell.recipe, "seed": cell.seed}
    row |= {"status": status, "reason": reason, "cell": cell.identity}
    for key, value in cell.values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        row[f"grid/{key}"] = float(value) if is_number else typed(value)
    row |= _costs(cell, marks)
    for step in cell.trained:
        row |= _metrics(step.kind, step.folder / "metrics.jsonl")
    if status == DONE:
        evaluation = cell.steps[-1]
        data, folder = evaluation.config.data, evaluation.folder
        try:
            row |= _scores(folder, data.suite, data.tasks) | {"folder": str(folder)}
        except DataError as error:
            reason = f"{error}; without the folder {folder} it is evaluated again"
            row |= {"status": FAILED, "reason": reason}
    return row


def _costs(cell: Cell, marks: Marks) -> Row:
    """Of what several cells share, each has all of it."""
    row: Row = {}
    for step in cell.steps:
        if (mark := marks.of(step)) is not None:
            for key in ("seconds", "cpu_seconds"):
                for name in (key, f"{key}/{step.kind}"):
                    row[name] = row.get(name, 0.0) + getattr(mark, key)
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
