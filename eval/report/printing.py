"""A report to the terminal, and as Markdown: its table, comparisons, and published rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from eval.remarks import NONE, Report, notes, warnings_of_report
from eval.report.sizes import sizes_table, sizes_title
from eval.report.table import (
    Rows,
    as_words,
    ends,
    markdown,
    narrow_table,
    percent,
    table_sections,
    title_of,
)

if TYPE_CHECKING:
    from rich.console import Console

MINUS = {ord("-"): "−"}


def markdown_report(report: Report) -> str:
    """All tables of a report, after what is to be known before any of its numbers is believed; a
    title only where the table does not speak for itself."""
    parts = [markdown(*table_sections(report, published=True))]
    if report["limit"] is not None or len(report["published"]) + len(report["paired"]):
        parts = [as_words(title_of(report)), *parts]
    warnings = warnings_of_report(report)
    parts = ["\n".join(f"- **warning**: {as_words(words)}" for words in warnings)] * bool(
        warnings
    ) + parts
    parts += ["\n".join(f"- {as_words(note)}" for note in notes(report))] if notes(report) else []
    sizes = sizes_table(report)
    if sizes:
        parts += [f"{as_words(sizes_title(report))}:", markdown(sizes[0], [sizes[1:]])]
    paired = paired_rows(report)
    if paired:
        parts += [f"{as_words(paired_title(report))}:", markdown(paired[0], [paired[1:]])]
    for benchmark, found in report["published"].items():
        table = published_table(report, benchmark)
        parts += [f"{found['title']}:", markdown(table[0], [table[1:]])]
        parts += [f"- {found['note']}"] if found["note"] else []
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def paired_title(report: Report) -> str:
    return (
        f"Differences to {report['baseline']} in points, 95 % intervals and two-sided p of a"
        " bootstrap over the same queries"
    )


def print_report(report: Report, console: Console | None = None) -> None:
    """To the terminal; one that is narrow shows the intervals of the overall means only."""
    from rich.console import Console

    console, models = console or Console(markup=False, emoji=False), report["models"]
    wide = console.width >= 40 + 20 * len(models)
    header, sections = table_sections(report, intervals=wide, published=wide)
    _print(console, title_of(report), header, sections)
    if not wide:
        entries = {name: model["averages"][report["overall"]] for name, model in models.items()}
        each = [f"{n} [{ends(e['ci95'])}]" for n, e in entries.items() if e["score"] is not None]
        console.print(f"{report['overall']}: {'; '.join(each)}", markup=False)
    for words in warnings_of_report(report):
        console.print(f"warning: {words}", markup=False)
    for note in notes(report):
        console.print(note, markup=False)
    sizes = sizes_table(report)
    if sizes:
        _print(console, sizes_title(report), sizes[0], [sizes[1:]])
    paired = paired_rows(report)
    if paired:
        averages = paired[1 : 1 + len(report["averages"])]  # of the tasks: in the Markdown
        _print(console, paired_title(report), paired[0], [averages])
    for benchmark, found in report["published"].items():
        table = [row[:-1] for row in published_table(report, benchmark)]  # sources: the Markdown
        ours, published = table[1 : 1 + len(models)], table[1 + len(models) :]
        _print(console, found["title"], table[0], [ours, published])
        if found["note"]:
            console.print(found["note"], markup=False)


def _print(console: Console, title: str, header: list[str], sections: Iterable[Rows]) -> None:
    table = narrow_table(title, header[1:])
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table)


def paired_rows(report: Report) -> Rows:
    """Of each average and task, the difference to the baseline, its interval and p."""
    rows = []
    models = [pair.split("|")[0] for pair in report["paired"]]
    for group in ("averages", "tasks"):
        for key in report[group]:
            entries = [pair[group].get(key) for pair in report["paired"].values()]
            if any(entries):  # else none of the models can do it, or the baseline cannot
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
        rows.append([name, *(percent(entry["score"]) for entry in entries), "this report"])
    best = _sorting_column(columns, report["overall"])
    for row in sorted(found["rows"], key=lambda row: -row["scores"].get(best, 0)):
        scores = [row["scores"].get(column) for column in columns]
        cells = ["" if score is None else f"{score:.1f}" for score in scores]
        rows.append([row["name"], *cells, _source(row)])
    return [["", *columns, "source"], *rows]


def _sorting_column(columns: dict[str, str], overall: str) -> str:
    """The report's own overall average, else a mean over tasks, else the last one: never the mean
    of meta-tasks where there is another."""
    ordered = sorted(columns, key=lambda name: (columns[name] == overall, "micro" in name))
    return ordered[-1] if ordered else ""


def _source(row: dict[str, Any]) -> str:
    """Where a row is from; what is printed there as the overall average, if that is another one."""
    printed = [f"{v:g} printed as overall ({column})" for column, v in row["printed"].items()]
    return "; ".join([row["source"], *printed, *([row["note"]] if row["note"] else [])])
