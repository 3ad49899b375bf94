"""The results of a report's models: which may be averaged and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from eval.results import Scores, TaskResult
from eval.tasks.suites import Task
from unime.errors import DataError
from unime.runtime.names import for_others

OF_A_COMMON_KIND = (  # of "inputs"
    *("num_frames", "resolution", "prompt", "max_image_pixels", "max_tiles", "max_text_tokens"),
    "jpeg_draft",
)
Results = dict[str, TaskResult]  # task -> what a model has of it


def read_results(name: str, folder: Path, suite: dict[str, Task]) -> Results:
    """The results of every task of the suite, which model `name` has in `folder`.

    Raises:
        DataError: a task is missing, a file is not a result, or they are of different settings.
    """
    missing = [task for task in suite if not (folder / f"{task}.json").is_file()]
    if missing:
        raise DataError(
            f"model {name!r}: {len(missing)} of {len(suite)} tasks have no result in {folder}: "
            f"{', '.join(missing)}; evaluate them first, no average without them"
        )
    results = {task: TaskResult.from_json(folder / f"{task}.json") for task in suite}
    for task, result in results.items():
        path, metric = folder / f"{task}.json", suite[task].metric
        if result.task != task:
            raise DataError(f"{path}: holds the result of task {result.task!r}")
        if result.metric != metric:
            raise DataError(f"{path}: scored by {result.metric}, the suite says {metric}")
    by_settings = {result.settings_fingerprint: task for task, result in results.items()}
    if len(by_settings) > 1:
        tasks = " and ".join(list(by_settings.values())[:2])
        raise DataError(
            f"model {name!r}: {folder} holds results of different settings or models, such as "
            f"{tasks}; evaluate again"
        )
    return results


def scored(results: Results) -> dict[str, Scores]:
    """The scores of the tasks that the model can do."""
    return {task: found.scores for task, found in results.items() if found.scores is not None}


def query_limit(name: str, results: Results) -> int | None:
    """To how many queries every task of a model was cut (data.limit), None: it has them all.

    Raises:
        DataError: tasks that were cut differently.
    """
    rows = {task: result.num_rows for task, result in results.items()}
    counts = {
        task: rows[task] if result.limit is None else min(rows[task], result.limit)
        for task, result in results.items()
    }
    cut = {task: count for task, count in counts.items() if count < rows[task]}
    if not cut:
        return None
    longest = max(cut, key=lambda task: cut[task])
    for task, count in counts.items():
        if count != min(cut[longest], rows[task]):
            raise DataError(
                f"model {name!r}: task {longest} has the first {cut[longest]} of "
                f"{rows[longest]} queries, task {task} {count} of {rows[task]}; no "
                "average over different limits, evaluate again with one data.limit"
            )
    return cut[longest]


def refuse_other_data(first: str, ours: Results, name: str, theirs: Results) -> None:
    """Refuse to compare two models that were evaluated on different data.

    Raises:
        DataError: two models did not see the same queries and candidates of the same data.
    """
    for task in ours:
        one, other = ours[task], theirs[task]
        sizes = [each.scores.num_queries if each.scores else 0 for each in (one, other)]
        same = (one.data_fingerprint, one.num_rows) == (other.data_fingerprint, other.num_rows)
        if not same or (all(sizes) and sizes[0] != sizes[1]):
            raise DataError(
                f"task {task}: models {first!r} and {name!r} were evaluated on different data "
                f"({sizes[0]} and {sizes[1]} queries); evaluate both again"
            )


def differing_settings(models: dict[str, Results], videos: bool) -> dict[str, dict[str, Any]]:
    """Settings that decide scores and are not the same for all models: setting -> model -> value.
    Only models that have such a setting are compared: a dual encoder has no prompt, which its
    `inputs` say by a null.

    Args:
        videos: whether there are any: without, the number of frames decides nothing.
    """
    firsts = {name: next(iter(results.values())) for name, results in models.items()}
    found: dict[str, dict[str, Any]] = {}
    for key in OF_A_COMMON_KIND if videos else OF_A_COMMON_KIND[1:]:
        found[key] = {n: r.inputs[key] for n, r in firsts.items() if r.inputs.get(key) is not None}
    shown = {name: result.shown or {} for name, result in firsts.items()}
    found["pixel_budget"] = {
        name: own["pixel_budget"] for name, own in shown.items() if "pixel_budget" in own
    }
    different = {key: own for key, own in found.items() if len(set(map(str, own.values()))) > 1}
    return cast(dict[str, dict[str, Any]], for_others(different))
