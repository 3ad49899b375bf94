"""The table of a report: its cells, and what a reader of it must know."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.remarks import NONE, Report
from unime.runtime.files import write_aside, write_json, writing
from unime.runtime.folder_lock import locked

if TYPE_CHECKING:
    from rich.table import Table

Rows = list[list[str]]
RECALL = {"hit@5": "R@5", "hit@10": "R@10"}  # beside the score, for tasks of the modality retrieval


def table_sections(
    report: Report, intervals: bool = True, published: bool = False
) -> tuple[list[str], list[Rows]]:
    """The table as text, a column a model: its header, and the rows, in sections: the tasks of each
    meta-task and their mean, other averages of a modality, all of MMEB, signs of collapse.

    Args:
        published: one more column for each published row of which the tasks' scores are known.
    """
    models, tasks, averages = report["models"], report["tasks"], report["averages"]
    modalities = list(dict.fromkeys(task["modality"] for task in tasks.values()))
    named = len(modalities) > 1 or len({task["metric"] for task in tasks.values()}) > 1
    sections: list[Rows] = []
    for modality in modalities:
        own = {name: task for name, task in tasks.items() if task["modality"] == modality}
        if named:
            metrics = ", ".join(dict.fromkeys(task["metric"] for task in own.values()))
            sections.append([[f"{modality}: {metrics}"]])
        for meta in dict.fromkeys(task["meta_task"] for task in own.values()):
            names = [name for name, task in own.items() if task["meta_task"] == meta]
            rows = list(chain(*(_task_rows(report, name, intervals) for name in names)))
            mean = f"{modality}/{meta}"
            if mean in averages:
                rows.append(_row(report, averages[mean]["label"], "averages", mean, intervals))
            sections.append(rows)
        sections.append(_average_rows(report, modality, intervals))
    sections += [_average_rows(report, None, intervals), _signs(report)]
    header = ["", "chance", *models, *(_others(report) if published else ())]
    width = len(header)
    return header, [
        [(row + [""] * width)[:width] for row in rows] for rows in sections if rows
    ]  # fmt: skip


def _others(report: Report) -> dict[str, dict[str, float]]:
    """Published rows of which the tasks' scores are known: what each has, by task and average."""
    return {
        row["name"]: row["tasks"]
        | {found["columns"][column]: score for column, score in row["scores"].items()}
        for found in report["published"].values()
        for row in found["rows"]
        if row["tasks"]
    }


def _average_rows(report: Report, modality: str | None, intervals: bool) -> Rows:
    return [
        _row(report, average["label"], "averages", key, intervals)
        for key, average in report["averages"].items()
        if average["modality"] == modality and average["kind"] != "meta_task"
    ]


def _task_rows(report: Report, name: str, intervals: bool) -> Rows:
    """A task's row, and below it what its kind has besides: recall at 5 and 10, or raw counts."""
    rows = [_row(report, name, "tasks", name, intervals)]
    modality = report["tasks"][name]["modality"]
    found = [model["tasks"][name] for model in report["models"].values()]
    if modality == "retrieval":
        for metric, label in RECALL.items():
            numbers = [entry.get("metrics", {}).get(metric) for entry in found]
            rows.append([f"  {label}", "", *map(percent, numbers)])
    if modality == "compositional":
        size = next((entry["num_queries"] for entry in found if "num_queries" in entry), 0)
        counts = [str(entry.get("num_correct", NONE)) for entry in found]
        rows.append([f"  right of {size}", "", *counts])
    return rows


def _row(report: Report, label: str, group: str, key: str, intervals: bool) -> list[str]:
    entries = [model[group][key] for model in report["models"].values()]
    chance = entries[0]["chance"]
    cells = [_cell(entry, intervals) for entry in entries]
    others = [found.get(key) for found in _others(report).values()]
    cells += ["" if score is None else f"{score:.1f}" for score in others]
    return [label, "" if chance is None else percent(chance), *cells]


def _cell(entry: dict[str, Any], intervals: bool) -> str:
    if entry["score"] is None:
        return f"{NONE} ({len(entry['missing'])})" if "missing" in entry else NONE
    number = percent(entry["score"])
    return f"{number} [{ends(entry['ci95'])}]" if intervals else number


def _signs(report: Report) -> Rows:
    signs = (("mean similarity", "mean_similarity", 3), ("effective rank", "effective_rank", 1))
    models = report["models"].values()
    return [
        [label, "", *(NONE if m[key] is None else f"{m[key]:.{digits}f}" for m in models)]
        for label, key, digits in signs
    ]


def write_table(output: Path, found: Mapping[str, Any], text: str) -> None:
    """Write results as JSON, and their table as Markdown beside it.

    Raises:
        ConfigError: they cannot be written there, or another program has the folder.
    """
    with locked("output", output.parent), writing("output", output):
        write_json(output, found)
        write_aside(output.with_suffix(".md"), text)


def title_of(report: Report) -> str:
    metrics = {task["metric"] for task in report["tasks"].values()}
    what = metrics.pop() if len(metrics) == 1 else "scores"
    limit = report["limit"]
    cut = "" if limit is None else f"; only the first {limit} queries of each task"
    return f"{what} in %, 95 % intervals ({report['suite']}{cut})"


def markdown(header: list[str], sections: list[Rows]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *chain(*sections)]
    return "\n".join(f"| {' | '.join(map(as_words, line))} |" for line in lines) + "\n"


def as_words(text: str) -> str:
    """A text, a stranger's name for one, in which Markdown finds no elements and no cells."""
    return html.escape(" ".join(text.splitlines()), quote=False).replace("|", "\\|")


def narrow_table(title: str, names: Sequence[str]) -> Table:
    """A first column for labels, one of numbers for each name."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    columns = [Column(name.replace("_", "\n"), justify="right") for name in names]
    first = Column(overflow="fold")  # the widest gives way first where all do not fit
    return Table(
        first, *columns, title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )


def ends(interval: list[float]) -> str:
    return ", ".join(f"{100 * end:.1f}" for end in interval)


def percent(score: float | None) -> str:
    return NONE if score is None else f"{100 * score:.1f}"
