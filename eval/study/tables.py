"""The tables of a study, as Markdown, from its rows."""

from __future__ import annotations

from collections.abc import Sequence

from eval.bootstrap import Estimate
from eval.report.averages import Average
from eval.report.table import as_words, markdown
from eval.study.compare import (
    Arm,
    Reference,
    arms_of,
    averages,
    difference,
    in_words,
    overall,
    reached,
)
from eval.study.marks import DONE
from eval.study.table import Row

NOT_RUN = "not run yet"
MOST_ARMS = 12  # of a table with a row a task


def arms_table(rows: Sequence[Row]) -> str:
    """What every arm reaches on every average: hit@1 in %, the mean over seeds and its interval."""
    arms, found = arms_of(rows), averages(rows)
    if not arms:
        return f"{NOT_RUN}\n"
    shown = [a for a in found.values() if a.modality != "text" or a.kind == "micro"]
    header = ["hit@1 in %", "seeds", *(average.label for average in shown)]
    lines = [[arm.name, str(len(arm.seeds)), *(cell(reached(arm, a)) for a in shown)]
             for arm in arms]  # fmt: skip
    return markdown(header, [lines])


def cell(estimate: Estimate) -> str:
    """A mean with its interval, in %."""
    low, high = (100 * end for end in estimate.ci95)
    return f"{100 * estimate.value:.1f} [{low:.1f}, {high:.1f}]"


def tasks_table(rows: Sequence[Row]) -> str:
    """A row a task, a column an arm."""
    arms = arms_of(rows)
    if not arms or len(arms) > MOST_ARMS:
        return f"{NOT_RUN}\n" if not arms else ""
    lines = []
    for task in arms[0].hits:
        alone = Average(task, task, "micro", None, (task,))
        lines.append([task, *(cell(reached(arm, alone)) for arm in arms)])
    return markdown(["hit@1 in %", *(arm.name for arm in arms)], [lines])


def differences_table(rows: Sequence[Row], reference: Reference) -> str:
    """By how much every arm is better than what it is compared to, in the main average, and
    whether that is more than noise; with each seed's own difference."""
    arms = arms_of(rows)
    if not arms:
        return f"{NOT_RUN}\n"
    main = overall(rows)
    lines = []
    for arm in arms:
        other = reference.of(arm, arms)
        if other is not None:
            apart = difference(arm, other, main)
            seeds = [] if apart is None else apart.seeds
            each = ", ".join(f"{100 * value:+.1f}" for value in seeds)
            lines.append([arm.name, other.name, in_words(apart), each])
    header = ["", "compared to", f"difference of {main.label}", "each seed"]
    return markdown(header, [lines]) if lines else ""


def pairs_table(rows: Sequence[Row]) -> str:
    """By how many points the arm of a row is better than that of a column, in the main average, of
    every pair; in brackets what is within noise."""
    arms, main = arms_of(rows), overall(rows)
    if not 2 < len(arms) <= MOST_ARMS:
        return ""
    lines = []
    for at, one in enumerate(arms):
        cells = [_apart(one, other, main) for other in arms[:at]]
        lines.append([f"{at + 1} {one.name}", *cells, *[""] * (len(arms) - 1 - at)])
    return markdown([f"{main.label}, row less column", *map(str, range(1, len(arms)))], [lines])


def _apart(one: Arm, other: Arm, average: Average) -> str:
    found = difference(one, other, average)
    if found is None:
        return ""
    said = f"{100 * found.value:+.1f}"
    return f"({said})" if found.is_noise else said


def costs_table(rows: Sequence[Row]) -> str:
    """Minutes and CPU minutes of a cell, its share of what several have in common included."""
    arms = arms_of(rows)
    if not arms:
        return f"{NOT_RUN}\n"
    lines = [[arm.name, *(_mean_minutes(arm, key) for key in ("seconds", "cpu_seconds"))]
             for arm in arms]  # fmt: skip
    return markdown(["", "minutes", "CPU minutes"], [lines])


def _mean_minutes(arm: Arm, key: str) -> str:
    values = [row[key] for row in arm.rows if key in row]
    return f"{sum(values) / len(values) / 60:.1f}" if values else ""


def failures(rows: Sequence[Row]) -> str:
    """What is not there, and why."""
    missing = [row for row in rows if row["status"] != DONE]
    return "".join(
        f"- {row['recipe']}, seed {row['seed']}: {row['status']}"
        f"{': ' + as_words(row['reason']) if row.get('reason') else ''}\n"
        for row in missing
    )


def provenance(rows: Sequence[Row]) -> str:
    """What was run, on what."""
    done = [row for row in rows if row["status"] == DONE]
    if not done:
        return f"{NOT_RUN}\n"
    commits, machines = (sorted({row[key] for row in done}) for key in ("commit", "hardware"))
    seeds = sorted({row["seed"] for row in done})
    return (
        f"{len(done)} of {len(rows)} cells are done, seeds {', '.join(map(str, seeds))}; commit"
        f" {', '.join(commits)}; {', '.join(machines)}.\n"
    )
