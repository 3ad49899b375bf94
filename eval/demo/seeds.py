"""One results file from the demo run with several seeds.

    python -m eval.demo.seeds docs/results/demo_seeds.json runs/demo runs/demo-seed1 runs/demo-seed2

Mean and standard deviation over the seeds of everything in the demo's table, every seed's own
numbers, and the differences between models that share a seed. Writes JSON, and the table as
Markdown beside it. All of it as it came out: a comparison is as good as the seeds are many.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report.seeds import over, spread
from eval.report.table import markdown, percent, write_table
from unime.errors import DataError
from unime.runtime.files import read_json
from unime.runtime.program import run_program

COMPARED = (  # what each part of the recipe buys: the first over the second
    ("stage1", "base"),
    ("stage1_stage2", "base"),
    ("stage1_stage2", "stage2"),
    ("stage2", "infonce"),
)
Report = dict[str, Any]


def main(words: Sequence[str]) -> None:
    if len(words) < 2 or not words[0].endswith(".json"):
        raise SystemExit(__doc__)
    output = Path(words[0])
    reports = [read(Path(folder)) for folder in words[1:]]
    try:
        text = table_of(collected := collect(reports))
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{', '.join(words[1:])}: no reports of one demo: {error!r:.200}") from None
    write_table(output, collected, text)
    print(text)


def read(folder: Path) -> Report:
    """The report of a demo that has finished.

    Raises:
        DataError: there is no finished demo in the folder.
    """
    report: Report = read_json(folder / "report.json")
    missing = {"models", "text", "filter", "seconds", "seed", "commit"} - set(report)
    if missing:
        raise DataError(f"{folder}: the demo has not finished, no {', '.join(sorted(missing))}")
    return report


def collect(reports: Sequence[Report]) -> dict[str, Any]:
    """One record of several demos: means and standard deviations over their seeds.

    Raises:
        DataError: a seed twice, or different models.
    """
    seeds = [report["seed"] for report in reports]
    if len(set(seeds)) < len(seeds):
        raise DataError(f"a seed came twice: {', '.join(map(str, seeds))}")
    models = list(reports[0]["models"])
    if any(list(report["models"]) != models for report in reports):
        raise DataError("these demos did not evaluate the same models")
    first = reports[0]
    return {
        "seeds": seeds,
        "commits": sorted({report["commit"] for report in reports}),
        "chance": first["chance"],
        "labels": {key: average["label"] for key, average in first["averages"].items()},
        "models": {model: _model(model, reports) for model in models},
        "differences": {
            f"{one} - {other}": over([hit(report, one) - hit(report, other) for report in reports])
            for one, other in COMPARED
        },
        "teacher": first["text"]["teacher"],
        "base_naming_accuracy": first["base_naming_accuracy"],
        "filter": {
            moment: {
                sign: over([report["filter"][moment][sign] for report in reports])
                for sign in ("precision", "recall")
            }
            for moment in first["filter"]
        },
        "minutes": over([sum(report["seconds"].values()) / 60 for report in reports]),
    }


def hit(report: Report, model: str) -> float:
    return report["models"][model]["averages"][report["overall"]]["score"]


def _model(model: str, reports: Sequence[Report]) -> dict[str, Any]:
    ours = [report["models"][model] for report in reports]
    texts = [report["text"][model] for report in reports]

    def group(name: str) -> dict[str, Any]:
        return {key: over([own[name][key]["score"] for own in ours]) for key in ours[0][name]}

    return {
        "tasks": group("tasks"),
        "averages": group("averages"),
        "text": {task: over([t[task] for t in texts]) for task in reports[0]["text"]["teacher"]},
        "mean_similarity": over([own["mean_similarity"] for own in ours]),
        "effective_rank": over([own["effective_rank"] for own in ours]),
    }


def table_of(collected: dict[str, Any]) -> str:
    """The table as Markdown: hit@1 in %, mean ± standard deviation over the seeds."""
    models, rows = collected["models"], []
    first = next(iter(models.values()))
    for group in ("tasks", "text", "averages"):
        for name in first[group]:
            cells = [spread(entry[group][name]) for entry in models.values()]
            label = collected["labels"][name] if group == "averages" else name
            teacher = percent(collected["teacher"][name]) if group == "text" else ""
            rows.append([label, *cells, teacher])
    for sign, digits in (("mean_similarity", 3), ("effective_rank", 1)):
        cells = [f"{entry[sign]['mean']:.{digits}f}" for entry in models.values()]
        rows.append([sign.replace("_", " "), *cells, ""])
    lines = [
        f"hit@1 in %, mean ± standard deviation over {len(collected['seeds'])} seeds; "
        f"chance {percent(collected['chance'])}.",
        "",
        markdown(["", *models, "teacher"], [rows]),
        "Differences of overall hit@1 within a seed:",
        "",
    ]
    for name, entry in collected["differences"].items():
        each = ", ".join(f"{100 * value:+.1f}" for value in entry["values"])
        lines.append(f"- {name}: {100 * entry['mean']:+.1f} ({each})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
