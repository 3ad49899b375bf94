"""What a study writes when its cells have ended: comparisons, figures, and a page."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.report.__main__ import write_report
from eval.study.compare import (
    Reference,
    arms_of,
    averages,
    difference,
    in_words,
    overall,
    reached,
)
from eval.study.marks import DONE
from eval.study.settings import StudyConfig
from eval.study.table import Row
from eval.study.tables import arms_table, differences_table, pairs_table
from eval.tasks.suites import load_suite
from unime.config import ReportConfig
from unime.runtime.files import write_aside, write_json, writing
from unime.runtime.names import LONGEST_NAME

FIGURES = "figures"
MOST_MODELS = 16  # of a page that can be read


def write_outcome(folder: Path, name: str, study: StudyConfig, rows: Sequence[Row]) -> None:
    """Into the study's folder; nothing while no cell is done."""
    if not any(row["status"] == DONE for row in rows):
        return
    reference = Reference.of_study(study)
    with writing("output_dir", folder):
        write_json(folder / "comparison.json", compared(rows, reference))
        tables = [arms_table(rows), differences_table(rows, reference), pairs_table(rows)]
        text = "\n".join(filter(None, tables))
        write_aside(folder / "comparison.md", f"# {name}\n\n{text}")
    print(text)
    figures = None
    if importlib.util.find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed: pip install 'unime[study]'")
    else:
        from eval.study.figures.draw import draw_all

        figures = folder / FIGURES
        draw_all(rows, reference, figures)
    write_page(folder, rows, figures)


def compared(rows: Sequence[Row], reference: Reference) -> dict[str, Any]:
    """Every arm on every average, and its difference to what it is compared to."""
    found: dict[str, Any] = {"overall": overall(rows).key, "arms": {}}
    arms = arms_of(rows)
    for arm in arms:
        other = reference.of(arm, arms)
        entry: dict[str, Any] = {"seeds": arm.seeds, "averages": {}, "differences": {}}
        entry["compared_to"] = None if other is None else other.name
        for key, average in averages(rows).items():
            entry["averages"][key] = asdict(reached(arm, average))
            if other is not None:
                apart = difference(arm, other, average)
                numbers = {} if apart is None else asdict(apart)
                entry["differences"][key] = numbers | {"in_words": in_words(apart)}
        found["arms"][arm.name] = entry
    return found


def write_page(folder: Path, rows: Sequence[Row], figures: Path | None) -> None:
    """The report of each arm's first seed, with the figures; or a line that says why not."""
    arms = arms_of(rows)
    firsts = dict(zip(page_names([a.name for a in arms]), [a.rows[0] for a in arms], strict=True))
    if importlib.util.find_spec("sklearn") is None:
        print("no page: sklearn is not installed: pip install 'unime[eval]'")
        return
    if len(firsts) > MOST_MODELS:
        print(f"no page: {len(firsts)} arms, and it has room for {MOST_MODELS}")
        return
    suite = next(iter(firsts.values()))["suite"]
    if any(not Path(row["folder"], f"{task}.json").is_file()
           for row in firsts.values() for task in load_suite(suite)):  # fmt: skip
        print(f"no page: evaluated on a part of {suite}")
        return
    config = ReportConfig(
        models={name: row["folder"] for name, row in firsts.items()},
        suite=suite,
        output=str(folder / "report.json"),
        html=str(folder / "report.html"),
        figures=None if figures is None else str(figures),
        published=False,
    )
    write_report(config)


def page_names(names: Sequence[str]) -> list[str]:
    """Names of arms as a report takes those of models: of one line, cut where they are long, and
    numbered where they are the same then."""
    found: list[str] = []
    for name in names:
        plain = "".join(one if one.isprintable() and one != "|" else " " for one in name)
        end, number = "" if len(plain) <= LONGEST_NAME else "…", 1
        while (short := plain[: LONGEST_NAME - len(end)] + end) in found:
            number += 1
            end = f"… ({number})"
        found.append(short)
    return found
