"""A report as tables: for the terminal, and as Markdown for a README or a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

Report = dict[str, Any]
Rows = list[list[str]]
NONE = "–"  # what a model cannot do
RECALL = {"hit@5": "R@5", "hit@10": "R@10"}  # beside the score, for tasks of the modality retrieval
MINUS = {ord("-"): "−"}


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
            rows.append([f"  {label}", "", *map(_percent, numbers)])
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
    return [label, "" if chance is None else _percent(chance), *cells]


def _cell(entry: dict[str, Any], intervals: bool) -> str:
    if entry["score"] is None:
        return f"{NONE} ({len(entry['missing'])})" if "missing" in entry else NONE
    number = _percent(entry["score"])
    return f"{number} [{_ends(entry['ci95'])}]" if intervals else number


def _signs(report: Report) -> Rows:
    signs = (("mean similarity", "mean_similarity", 3), ("effective rank", "effective_rank", 1))
    models = report["models"].values()
    return [
        [label, "", *(NONE if m[key] is None else f"{m[key]:.{digits}f}" for m in models)]
        for label, key, digits in signs
    ]


def paired_rows(report: Report) -> Rows:
    """Of each average and task, the difference to the baseline, its interval and p."""
    rows = []
    models = [pair.split("|")[0] for pair in report["paired"]]
    for group in ("averages", "tasks"):
        for key in report[group]:
            entries = [pair[group].get(key) for pair in report["paired"].values()]
            rows.append([key, *map(_difference, entries)])
    return [["", *models], *rows] if models else []


def _difference(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return NONE
    numbers = [f"{100 * value:+.1f}".translate(MINUS) for value in entry["ci95"]]
    number = f"{100 * entry['difference']:+.1f}".translate(MINUS)
    return f"{number} [{', '.join(numbers)}] p {entry['p']:.2g}"


def published_table(report: Report, benchmark: str) -> Rows:
    """Header and rows: our models, then the published rows, the best first; what nobody measured is
    blank. The last column is the source."""
    found = report["published"][benchmark]
    columns = found["columns"]
    rows = []
    for name, model in report["models"].items():
        entries = [(model["averages"] | model["tasks"])[key] for key in columns.values()]
        rows.append([name, *(_percent(entry["score"]) for entry in entries), "this report"])
    best = _sorting_column(columns, report["overall"])
    for row in sorted(found["rows"], key=lambda row: -row["scores"].get(best, 0)):
        scores = [row["scores"].get(column) for column in columns]
        cells = ["" if score is None else f"{score:.1f}" for score in scores]
        rows.append([row["name"], *cells, _source(row)])
    return [["", *columns, "source"], *rows]


def _sorting_column(columns: dict[str, str], overall: str) -> str:
    names = [column for column, key in columns.items() if key == overall]
    return names[0] if names else list(columns)[-1]


def _source(row: dict[str, Any]) -> str:
    """Where a row is from; what is printed there as the overall average, if that is another one."""
    printed = [f"{v:g} printed as overall ({column})" for column, v in row["printed"].items()]
    return "; ".join([row["source"], *printed, *([row["note"]] if row["note"] else [])])


def notes(report: Report) -> list[str]:
    """What a reader of the table must know, a line each."""
    lines = []
    for setting, values in report["differing_settings"].items():
        each = ", ".join(f"{name} {value}" for name, value in values.items())
        lines.append(f"not strictly comparable: the models differ in {setting} ({each})")
    for name, model in report["models"].items():
        reasons = [e["not_supported"] for e in model["tasks"].values() if e["score"] is None]
        if reasons:
            counts = f"{len(reasons)} of {len(model['tasks'])} tasks"
            lines.append(f"{name} cannot do {counts} ({NONE}): {reasons[0]}")
    entries = chain(*(model["averages"].values() for model in report["models"].values()))
    if any(entry["missing"] for entry in entries):
        lines.append(f"{NONE} (n): no average, n of its tasks are missing; the JSON names them")
    return lines


def title_of(report: Report) -> str:
    metrics = {task["metric"] for task in report["tasks"].values()}
    what = metrics.pop() if len(metrics) == 1 else "scores"
    limit = report["limit"]
    cut = "" if limit is None else f"; only the first {limit} queries of each task"
    return f"{what} in %, 95 % intervals ({report['suite']}{cut})"


def markdown_report(report: Report) -> str:
    """All tables of a report; a title only where the table does not speak for itself."""
    parts = [markdown(*table_sections(report, published=True))]
    if report["limit"] is not None or len(report["published"]) + len(report["paired"]):
        parts = [title_of(report), *parts]
    parts += ["\n".join(f"- {note}" for note in notes(report))] if notes(report) else []
    paired = paired_rows(report)
    if paired:
        parts += [f"{paired_title(report)}:", markdown(paired[0], [paired[1:]])]
    for benchmark, found in report["published"].items():
        table = published_table(report, benchmark)
        parts += [f"{found['title']}:", markdown(table[0], [table[1:]])]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def paired_title(report: Report) -> str:
    return (
        f"Differences to {report['baseline']} in points, 95 % intervals and two-sided p of a"
        " bootstrap over the same queries"
    )


def markdown(header: list[str], sections: list[Rows]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *chain(*sections)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def narrow_table(title: str, names: Sequence[str]) -> Table:
    """A first column for labels, one of numbers for each name."""
    columns = [Column(name.replace("_", "\n"), justify="right") for name in names]
    first = Column(overflow="fold")  # the widest gives way first where all do not fit
    return Table(
        first, *columns, title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )


def print_report(report: Report, console: Console | None = None) -> None:
    """To the terminal; one that is narrow shows the intervals of the overall means only."""
    console, models = console or Console(), report["models"]
    wide = console.width >= 40 + 20 * len(models)
    header, sections = table_sections(report, intervals=wide, published=wide)
    _print(console, title_of(report), header, sections)
    if not wide:
        entries = {name: model["averages"][report["overall"]] for name, model in models.items()}
        ends = [f"{n} [{_ends(e['ci95'])}]" for n, e in entries.items() if e["score"] is not None]
        console.print(f"{report['overall']}: {'; '.join(ends)}", markup=False)
    for note in notes(report):
        console.print(note, markup=False)
    paired = paired_rows(report)
    if paired:
        averages = paired[1 : 1 + len(report["averages"])]  # of the tasks: in the Markdown
        _print(console, paired_title(report), paired[0], [averages])
    for benchmark, found in report["published"].items():
        table = [row[:-1] for row in published_table(report, benchmark)]  # sources: the Markdown
        ours, published = table[1 : 1 + len(models)], table[1 + len(models) :]
        _print(console, found["title"], table[0], [ours, published])


def _print(console: Console, title: str, header: list[str], sections: Iterable[Rows]) -> None:
    table = narrow_table(title, header[1:])
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table)


def _ends(interval: list[float]) -> str:
    return ", ".join(f"{100 * end:.1f}" for end in interval)


def _percent(score: float | None) -> str:
    return NONE if score is None else f"{100 * score:.1f}"
