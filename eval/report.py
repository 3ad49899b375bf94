"""One table from the results of several models: hit@1 by task, meta-task and distribution.

    python -m eval.report --config configs/report/qwen2-vl-2b.yaml [key=value …]

Prints the table, and writes it as JSON (`output`) and as Markdown (beside it). "overall" is the
mean over tasks, as on MMEB's leaderboard; "macro" is the mean of the meta-task means, which some
papers print as overall. Intervals are 95 % bootstrap intervals over queries, drawn within each
task. With a task missing there is no average: the report is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from eval.results import Results, query_limit, read_results, refuse_other_data
from eval.suites import Task, load_suite
from unime.checkpoint import write_json
from unime.config import ConfigError, ReportConfig, load_config
from unime.runlog import run_program

AVERAGES = ("ind", "ood", "macro", "overall")  # as the table has them
NAMES = {
    "overall": "overall (mean of tasks)",
    "macro": "macro (mean of meta-tasks)",
    "ind": "in distribution",
    "ood": "out of distribution",
}


def main(argv: list[str] | None = None) -> None:
    config = load_config(ReportConfig, argv)
    report = build_report(config)
    output = Path(config.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, report)
    except OSError as error:
        raise ConfigError(f"output: {output} cannot be written: {error}") from None
    title = f"hit@1 in %, 95 % intervals ({config.suite}{_limited(report['limit'])})"
    text = markdown(*table_sections(report))
    if report["limit"] is not None:
        text = f"{title}\n\n{text}"
    _write_text(output.with_suffix(".md"), text)
    print_table(title, report)
    print(f"written: {output} and {output.with_suffix('.md')}")


def build_report(config: ReportConfig) -> dict[str, Any]:
    """
    Raises:
        DataError: a task is missing, a file is not a result, a model's tasks were made with
            different settings or limits, or two models saw different data.
    """
    suite = _selected(config)
    results = {name: read_results(name, Path(f), suite) for name, f in config.models.items()}
    limits = [query_limit(name, found) for name, found in results.items()]
    first = next(iter(results))
    for name in results:
        refuse_other_data(first, results[first], name, results[name])
    return {
        "suite": config.suite,
        "limit": limits[0],  # equal data have equal limits
        "bootstrap_samples": config.bootstrap_samples,
        "seed": config.seed,
        "num_tasks": len(suite),
        "chance": float(np.mean([results[first][task]["chance"] for task in suite])),
        "models": {name: _summarise(found, suite, config) for name, found in results.items()},
    }


def _limited(limit: int | None) -> str:
    return "" if limit is None else f"; only the first {limit} queries of each task"


def _selected(config: ReportConfig) -> dict[str, Task]:
    suite = load_suite(config.suite)
    known = {task.meta_task for task in suite.values()}
    for name in config.meta_tasks or []:
        if name not in known:
            valid = ", ".join(sorted(known))
            raise ConfigError(f"meta_tasks: {config.suite} has no {name!r}, expected {valid}")
    wanted = known if config.meta_tasks is None else set(config.meta_tasks)
    return {name: task for name, task in suite.items() if task.meta_task in wanted}


def _summarise(results: Results, suite: dict[str, Task], config: ReportConfig) -> dict[str, Any]:
    """Every number of one model; each average beside the interval of its bootstrap samples."""
    random = np.random.default_rng(config.seed)
    exact: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    for task in suite:
        hits = results[task]["hits"]
        exact[task] = sum(hits) / len(hits)
        # Drawing n of n zeros and ones with replacement is a binomial draw.
        drawn = random.binomial(len(hits), exact[task], config.bootstrap_samples)
        samples[task] = drawn / len(hits)  # (bootstrap_samples,)

    def mean(tasks: list[str]) -> dict[str, Any] | None:
        if not tasks:
            return None
        chance = float(np.mean([results[name]["chance"] for name in tasks]))
        average = _entry(_mean(exact, tasks), _mean(samples, tasks))
        return average | {"chance": chance, "num_tasks": len(tasks)}

    metas = {
        meta: [name for name, task in suite.items() if task.meta_task == meta]
        for meta in dict.fromkeys(task.meta_task for task in suite.values())
    }
    macro = [[_mean(values, tasks) for tasks in metas.values()] for values in (exact, samples)]
    return {
        "overall": mean(list(suite)),
        "macro": _entry(*(np.mean(values, axis=0) for values in macro)),
        "ind": mean([name for name, task in suite.items() if task.distribution == "ind"]),
        "ood": mean([name for name, task in suite.items() if task.distribution == "ood"]),
        "meta_tasks": {meta: mean(tasks) for meta, tasks in metas.items()},
        "tasks": {
            name: _entry(exact[name], samples[name])
            | {"num_queries": len(results[name]["hits"]), "chance": results[name]["chance"]}
            for name in suite
        },
        "mean_similarity": float(np.mean([results[n]["mean_similarity"] for n in suite])),
        "effective_rank": float(np.mean([results[n]["effective_rank"] for n in suite])),
        "seconds": float(sum(results[n]["seconds"] for n in suite)),
        "commits": sorted({results[name]["commit"] for name in suite}),
        **{key: results[next(iter(suite))].get(key) for key in ("model", "adapter")},
    }


def _mean(values: dict[str, Any], names: list[str]) -> Any:
    return np.mean([values[name] for name in names], axis=0)


def _entry(number: float, drawn: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"hit_at_1": float(number), "ci95": [float(low), float(high)]}


def table_sections(
    report: dict[str, Any], intervals: bool = True
) -> tuple[list[str], list[list[list[str]]]]:
    """The table as text, a column a model: its header, and the rows of tasks, meta-tasks, averages
    and signs of collapse."""
    models = report["models"]
    first = next(iter(models.values()))

    def row(label: str, *keys: str) -> list[str]:
        entries = [_at(model, keys) for model in models.values()]
        chance = entries[0].get("chance")
        cells = [f"{100 * entry['hit_at_1']:.1f}" for entry in entries]
        if intervals:
            ends = (_percent(entry["ci95"]) for entry in entries)
            cells = [f"{cell} [{interval}]" for cell, interval in zip(cells, ends, strict=True)]
        return [label, "" if chance is None else f"{100 * chance:.1f}", *cells]

    def sign(label: str, key: str, digits: int) -> list[str]:
        return [label, "", *(f"{model[key]:.{digits}f}" for model in models.values())]

    sections = [
        [row(task, "tasks", task) for task in first["tasks"]],
        [row(f"mean of {meta}", "meta_tasks", meta) for meta in first["meta_tasks"]],
        [row(NAMES[key], key) for key in AVERAGES if first[key] is not None],
        [
            sign("mean similarity", "mean_similarity", 3),
            sign("effective rank", "effective_rank", 1),
        ],
    ]
    return ["", "chance", *models], sections


def narrow_table(title: str, names: Sequence[str]) -> Table:
    """A first column for labels, one of numbers for each name."""
    columns = [Column(name.replace("_", "\n"), justify="right") for name in names]
    first = Column(no_wrap=True)
    return Table(
        first, *columns, title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )


def print_table(title: str, report: dict[str, Any], console: Console | None = None) -> None:
    """To the terminal; one that is narrow shows the intervals of the overall means only."""
    console, models = console or Console(), report["models"]
    wide = console.width >= 40 + 20 * len(models)
    header, sections = table_sections(report, intervals=wide)
    table = narrow_table(title, header[1:])
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table)
    if not wide:
        ends = (f"{name} [{_percent(m['overall']['ci95'])}]" for name, m in models.items())
        console.print(f"overall: {'; '.join(ends)}", markup=False)


def _at(model: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        model = model[key]
    return model


def _percent(interval: list[float]) -> str:
    return ", ".join(f"{100 * end:.1f}" for end in interval)


def markdown(header: list[str], sections: list[list[list[str]]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *chain(*sections)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


if __name__ == "__main__":
    run_program(main)
