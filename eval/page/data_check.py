"""What a check found in data, as one HTML page in the look of the report's, without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval.page.build import PARTS, SLOT
from unime.data.checks.check import TABLE, DataReport, TaskReport
from unime.data.checks.content import Histogram
from unime.runtime.files import write_aside, writing
from unime.runtime.names import for_others

PAGE = "check.html"
LISTED = 200  # rows with a fault; all stand in the table
COLUMNS = (
    *("task", "split", "found in rows", "rows", "accepted", "different queries"),
    *("of several right answers", "texts cut"),
)
FAULTS = ("task", "row is", "kind", "column", "reason", "where", "row id")
NUMBERS = COLUMNS[3:]  # the others are words


def write_check_page(found: DataReport, name: str, path: Path) -> None:
    """Write the page.

    Args:
        name: of the data.

    Raises:
        ConfigError: it cannot be written.
    """
    figures = {"rows": found.rows, "can be used": found.accepted}
    figures["are left out"] = found.rows - found.accepted
    if found.compared_with:
        figures["show what is held out"] = found.leaks
    parts = {
        "css": (PARTS / "page.css").read_text(encoding="utf-8"),
        "name": _shown(Path(name).name),
        "figures": "".join(
            f'<li><span class="name">{words}</span><span class="number">{number:,}</span></li>'
            for words, number in figures.items()
        ),
        "tasks": _table(COLUMNS, map(_of_task, found.tasks)),
        "histograms": "".join(map(_figure, (found.lengths, found.sides))),
        "rows": _listed(found),
        "note": _shown(_note(found)),
    }
    template = (PARTS / "check.html").read_text(encoding="utf-8")
    page = SLOT.sub(lambda slot: parts[slot[1]], template)
    with writing("check.output_dir", path):
        write_aside(path, page)


def _of_task(task: TaskReport) -> list[str]:
    numbers = (task.rows, task.accepted, task.queries, task.with_several, task.cut)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in task.counts.items())
    return [task.name, task.split, kinds or "nothing", *(f"{number:,}" for number in numbers)]


def _figure(histogram: Histogram) -> str:
    bars = histogram.bars()
    if not bars:
        return ""
    most = max(count for _, count in bars)
    lines = "".join(
        f'<li><span>{words}</span><i style="width:{100 * count / most:.1f}%"></i>'
        f"<span>{count:,}</span></li>"
        for words, count in bars
    )
    title = f"{histogram.of} (at most {histogram.most:,})"
    return f'<figure><h3>{_shown(title)}</h3><ul class="bars">{lines}</ul></figure>'


def _listed(found: DataReport) -> str:
    faults = [(task, fault) for task in found.tasks for fault in task.faults]
    faults.sort(key=lambda pair: not pair[1].rejected)
    rows = [
        [task.name, "left out" if fault.rejected else "used", fault.kind, fault.column,
         fault.reason, fault.where, fault.row_id]
        for task, fault in faults[:LISTED]
    ]  # fmt: skip
    if not rows:
        return "<p>Nothing was found.</p>"
    return _table(FAULTS, rows)


def _note(found: DataReport) -> str:
    count = sum(len(task.faults) for task in found.tasks)
    beyond = f"The first {LISTED} of {count:,}" if count > LISTED else "All that was found"
    return f"{beyond}, what is left out first; {TABLE} beside this page has every one."


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, each cell of which has its column's name, for screens on which none is above it."""
    classes = ["number" if name in NUMBERS else "words" for name in names]
    head = "".join(
        f'<th scope="col" class="{of}">{name}</th>' for name, of in zip(names, classes, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{of}" data-column="{name}">{_shown(cell)}</td>'
            for name, of, cell in zip(names, classes, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _shown(text: str) -> str:
    """A text of the data as text, whatever is in it."""
    return html.escape(str(for_others(text)).encode("utf-8", "replace").decode())
