"""One table of the reports of several seeds: means, standard deviations and differences.

    python -m eval.report.seeds OUT.json apart together runs/real_llm/seed*/report.json

writes JSON, and the table as Markdown beside it. The two names are models of the reports: what the
second has more than the first, within each seed. All of it as it came out: a comparison is as good
as the seeds are many.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report.table import markdown, write_table
from unime.errors import DataError
from unime.runtime.files import read_json
from unime.runtime.program import run_program

Report = dict[str, Any]
SIGNS = {"mean_similarity": 3, "effective_rank": 1}  # digits


def main(words: Sequence[str]) -> None:
    if len(words) < 4 or not words[0].endswith(".json"):
        raise SystemExit(__doc__)
    output, (less, more), files = Path(words[0]), words[1:3], words[3:]
    reports = [read_json(Path(file)) for file in files]
    try:
        text = table_of(collected := collect(reports, less, more))
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{', '.join(files)}: no reports of one suite: {error!r:.200}") from None
    write_table(output, collected, text)
    print(text)


def collect(reports: Sequence[Report], less: str, more: str) -> Report:
    """One record of several seeds' reports.

    Raises:
        DataError: they have different models, tasks or queries, or not these two models, or a model
            did not do a task.
    """
    first = reports[0]
    for key in ("models", "tasks", "suite", "limit"):
        kinds = [sorted(own[key]) if isinstance(own[key], dict) else own[key] for own in reports]
        if any(kind != kinds[0] for kind in kinds):
            raise DataError(f"these reports do not have the same {key}")
    if not {less, more} <= set(first["models"]):
        raise DataError(f"{less} and {more} are not both of {', '.join(first['models'])}")
    return {
        "seeds": len(reports),
        "labels": {key: average["label"] for key, average in first["averages"].items()},
        "chance": {name: _score(first, less, "tasks", name, "chance") for name in first["tasks"]},
        "models": {model: _model(model, reports) for model in first["models"]},
        "differences": {
            f"{more} - {less}": {
                name: over(
                    [
                        _score(own, more, group, name) - _score(own, less, group, name)
                        for own in reports
                    ]
                )
                for group in ("tasks", "averages")
                for name in first[group]
            }
        },
    }


def _score(report: Report, model: str, group: str, name: str, key: str = "score") -> float:
    return _number(report["models"][model][group][name][key], f"{model}, {name}: {key}")


def _number(value: Any, called: str) -> float:
    if value is None:
        raise DataError(f"{called} is null; every model has to have done every task")
    return float(value)


def _model(model: str, reports: Sequence[Report]) -> Report:
    scores = {
        group: {
            name: over([_score(own, model, group, name) for own in reports])
            for name in reports[0][group]
        }
        for group in ("tasks", "averages")
    }
    signs = {
        sign: over([_number(own["models"][model][sign], f"{model}: {sign}") for own in reports])
        for sign in SIGNS
    }
    return scores | signs


def over(values: Sequence[float]) -> Report:
    """Mean, standard deviation (n - 1; none of one seed) and every seed's value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation, "values": list(values)}


def spread(entry: Report) -> str:
    """A mean and its deviation in %."""
    deviation = "" if entry["sd"] is None else f" ± {100 * entry['sd']:.1f}"
    return f"{100 * entry['mean']:.1f}{deviation}"


def table_of(collected: Report) -> str:
    """The table as Markdown: scores in %, mean ± standard deviation over the seeds."""
    models, rows = collected["models"], []
    ((compared, differences),) = collected["differences"].items()
    for group in ("tasks", "averages"):
        for name in next(iter(models.values()))[group]:
            each = ", ".join(f"{100 * value:+.1f}" for value in differences[name]["values"])
            label = collected["labels"][name] if group == "averages" else name
            rows.append([label, *(spread(entry[group][name]) for entry in models.values()), each])
    for sign, digits in SIGNS.items():
        cells = [f"{entry[sign]['mean']:.{digits}f}" for entry in models.values()]
        rows.append([sign.replace("_", " "), *cells, ""])
    chance = ", ".join(f"{100 * share:.1f}" for share in sorted({*collected["chance"].values()}))
    count = collected["seeds"]
    return "\n".join(
        [
            f"In %, mean ± standard deviation over {count} seed{'s' * (count > 1)}, and what each "
            f"seed says of {compared}; chance {chance}.",
            "",
            markdown(["", *models, compared], [rows]),
        ]
    )


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
