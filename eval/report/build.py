"""The report: every model's numbers on every task and average, with intervals and differences.

Intervals are 95 % bootstrap intervals over queries, drawn within each task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.bootstrap import drawn_means, interval, two_sided_p
from eval.remarks import warnings_of_report
from eval.report.averages import Average, averages_of, overall_of
from eval.report.comparable import (
    Results,
    differing_settings,
    query_limit,
    read_results,
    refuse_other_data,
    scored,
)
from eval.report.leaderboard import other_sizes
from eval.report.published_rows import published_for
from eval.report.sizes import sizes_of
from eval.tasks.suites import Task, load_suite
from unime.config import ReportConfig
from unime.errors import ConfigError
from unime.runtime.names import for_others

SIGNS = ("tied_queries", "mean_similarity", "effective_rank", "num_items")
OF_A_MODEL = ("encoder", "model", "adapter", "inputs")
DESCRIBED = ("modality", "meta_task", "distribution", "metric")
OF_UNIME = ("unime-retrieval", "sugarcrepe")  # benchmarks of which the rows have UniME's prompts
Averages = Mapping[str, Average]


def build_report(config: ReportConfig) -> dict[str, Any]:
    """The scores, averages and differences of all models, as ``report.json`` holds them.

    Raises:
        DataError: a task is missing, a file is not a result, a model's tasks were made with
            different settings or limits, or two models saw different data.
    """
    suite = _selected(config)
    averages = averages_of(suite)
    results = {name: read_results(name, Path(f), suite) for name, f in config.models.items()}
    limits = [query_limit(name, found) for name, found in results.items()]
    first = next(iter(results))
    for name in results:
        refuse_other_data(first, results[first], name, results[name])
    overall = overall_of(averages)
    known = {t: own for found in results.values() for t, own in scored(found).items()}
    chance = {task: known[task].chance for task in suite if task in known}  # the data's, of all
    sizes = {task: scores.num_queries for task, scores in known.items()}
    report: dict[str, Any] = {
        "suite": for_others(config.suite),
        "limit": limits[0],  # equal data have equal limits
        "bootstrap_samples": config.bootstrap_samples,
        "seed": config.seed,
        "num_tasks": len(suite),
        "overall": overall.key,
        "chance": _mean(chance, overall.tasks),
        "tasks": {
            name: {key: getattr(task, key) for key in DESCRIBED} | {"chance": chance.get(name)}
            for name, task in suite.items()
        },
        "averages": {
            key: {
                "label": average.label,
                "kind": average.kind,
                "modality": average.modality,
                "parts": [part if isinstance(part, str) else part.key for part in average.parts],
                "tasks": list(average.tasks),
                "metrics": sorted({suite[task].metric for task in average.tasks}),
            }
            for key, average in averages.items()
        },
        "models": {
            name: _summarise(found, averages, chance, config) for name, found in results.items()
        },
        "baseline": config.baseline,
        "paired": {
            f"{name}|{config.baseline}": _compare(found, results[config.baseline], averages, config)
            for name, found in results.items()
            if config.baseline not in (None, name)
        },
        "other_sizes": [] if limits[0] is not None else other_sizes(sizes),
        "differing_settings": differing_settings(
            results, any(task.modality == "video" for task in suite.values())
        ),
        "published": {
            key: found | {"note": _other_prompts(suite, results) if key in OF_UNIME else ""}
            for key, found in published_for(averages, list(suite), config.published_rows).items()
        }
        if config.published
        else {},
    }
    for name, model in report["models"].items():
        model["warnings"] = warnings_of_report(report, name)
    return report


def _selected(config: ReportConfig) -> dict[str, Task]:
    suite = load_suite(config.suite)
    known = {task.meta_task for task in suite.values()}
    for name in config.meta_tasks or []:
        if name not in known:
            valid = ", ".join(sorted(known))
            raise ConfigError(f"meta_tasks: {config.suite} has no {name!r}, expected {valid}")
    wanted = known if config.meta_tasks is None else set(config.meta_tasks)
    return {name: task for name, task in suite.items() if task.meta_task in wanted}


def _other_prompts(suite: dict[str, Task], results: dict[str, Results]) -> str:
    """What our results were asked with, where it is not what UniME's published rows were."""
    prompts = {  # null: a baseline's
        name: next(iter(found.values())).inputs.get("prompt") for name, found in results.items()
    }
    yours = [f"{n}: {prompt}" for n, prompt in prompts.items() if prompt not in (None, "unime")]
    if any(getattr(task.format, "image_instruction", "") for task in suite.values()):
        yours.append("suite with instructions")
    if not yours:
        return ""
    return f"not strictly comparable: rows of UniME have prompt unime; yours {', '.join(yours)}"


def _mean(values: Mapping[str, float], tasks: Iterable[str]) -> float | None:
    own = [values.get(task) for task in tasks]
    return None if None in own else float(np.mean(own))  # type: ignore[arg-type]


def _summarise(
    results: Results, averages: Averages, chance: dict[str, float], config: ReportConfig
) -> dict[str, Any]:
    """Every number of one model."""
    done = scored(results)
    exact = {task: float(np.mean(scores.values)) for task, scores in done.items()}
    samples = {
        task: drawn_means(scores.values, config.bootstrap_samples, config.seed, task)
        for task, scores in done.items()
    }

    def average(found: Average) -> dict[str, Any]:
        missing = [task for task in found.tasks if task not in done]
        score = None if missing else float(found.of(exact))
        ends = None if missing else interval(found.of(samples))
        described = {"chance": _mean(chance, found.tasks), "num_tasks": len(found.tasks)}
        return {"score": score, "ci95": ends, **described, "missing": missing}

    def task(name: str) -> dict[str, Any]:
        result, described = results[name], {"chance": chance.get(name)}
        if name not in done:
            reason = for_others(result.not_supported)
            return {"score": None, "not_supported": reason} | described
        scores = done[name]
        entry = {"score": exact[name], "ci95": interval(samples[name])} | described
        entry |= {key: getattr(scores, key) for key in ("num_queries", "metrics", *SIGNS)}
        if result.metric.startswith("hit@"):
            entry["num_correct"] = scores.values.count(1)
        return entry | {"metric": result.metric}

    complete = len(done) == len(results)
    first = next(iter(results.values()))
    return {
        "averages": {key: average(found) for key, found in averages.items()},
        "dimensions": sizes_of(done, averages, config.bootstrap_samples, config.seed),
        "tasks": {name: task(name) for name in results},
        **{
            key: float(np.mean([getattr(s, key) for s in done.values()])) if complete else None
            for key in ("mean_similarity", "effective_rank")
        },
        "seconds": float(sum(scores.seconds for scores in done.values())),
        "commits": for_others(sorted({result.commit for result in results.values()})),
        **{key: for_others(getattr(first, key)) for key in OF_A_MODEL},
    }


def _compare(
    ours: Results, baseline: Results, averages: Averages, config: ReportConfig
) -> dict[str, Any]:
    """A paired bootstrap: the differences of two models on the same queries, of every task and
    average that both can do."""
    one, other = scored(ours), scored(baseline)
    common = one.keys() & other.keys()
    exact, samples = {}, {}
    for task in [task for task in ours if task in common]:
        values = np.subtract(one[task].values, other[task].values, dtype=np.float64)
        exact[task] = float(values.mean())
        samples[task] = drawn_means(values, config.bootstrap_samples, config.seed, task)

    def entry(difference: float, drawn: np.ndarray) -> dict[str, Any]:
        return {
            "difference": float(difference), "ci95": interval(drawn), "p": two_sided_p(drawn)
        }  # fmt: skip

    return {
        "tasks": {task: entry(exact[task], samples[task]) for task in exact},
        "averages": {
            key: entry(average.of(exact), average.of(samples))
            for key, average in averages.items()
            if set(average.tasks) <= common
        },
    }
