"""The results of evaluations, read back: which may be averaged and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.suites import Task
from unime.items import DataError

NEEDED = {  # of each task's file
    "task": str,
    "hits": list,
    "num_rows": int,
    "chance": float,
    "mean_similarity": float,
    "effective_rank": float,
    "seconds": float,
    "commit": str,
    "settings_fingerprint": str,
    "data_fingerprint": str,
}
Results = dict[str, dict[str, Any]]  # task -> its file


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
    results = {task: _read_task(folder / f"{task}.json", task) for task in suite}
    by_settings = {result["settings_fingerprint"]: task for task, result in results.items()}
    if len(by_settings) > 1:
        tasks = " and ".join(list(by_settings.values())[:2])
        raise DataError(
            f"model {name!r}: {folder} holds results of different settings or models, such as "
            f"{tasks}; evaluate again"
        )
    return results


def _read_task(path: Path, task: str) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a result of eval.mmeb: {error}") from None
    if not isinstance(result, dict):
        raise DataError(f"{path}: not a result of eval.mmeb: expected an object")
    for key, kind in NEEDED.items():
        value = result.get(key)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise DataError(f"{path}: not a result of eval.mmeb: {key} is {value!r}")
    if result["task"] != task:
        raise DataError(f"{path}: holds the result of task {result['task']!r}")
    if not result["hits"] or set(result["hits"]) - {0, 1}:
        raise DataError(f"{path}: not a result of eval.mmeb: hits are not a list of 0 and 1")
    if len(result["hits"]) > result["num_rows"]:
        sizes = f"{len(result['hits'])} hits of {result['num_rows']} rows"
        raise DataError(f"{path}: not a result of eval.mmeb: {sizes}")
    return result


def query_limit(name: str, results: Results) -> int | None:
    """To how many queries every task of a model was cut (data.limit), None: it has them all.

    Raises:
        DataError: tasks that were cut differently.
    """
    counts = {task: len(result["hits"]) for task, result in results.items()}
    cut = {task: count for task, count in counts.items() if count < results[task]["num_rows"]}
    if not cut:
        return None
    longest = max(cut, key=lambda task: cut[task])
    for task, count in counts.items():
        total = results[task]["num_rows"]
        if count != min(cut[longest], total):
            raise DataError(
                f"model {name!r}: task {longest} has the first {cut[longest]} of "
                f"{results[longest]['num_rows']} queries, task {task} {count} of {total}; no "
                "average over different limits, evaluate again with one data.limit"
            )
    return cut[longest]


def refuse_other_data(first: str, ours: Results, name: str, theirs: Results) -> None:
    """
    Raises:
        DataError: two models did not see the same queries and candidates of the same data.
    """
    for task in ours:
        if any(ours[task][key] != theirs[task][key] for key in ("data_fingerprint", "num_rows")):
            raise DataError(
                f"task {task}: models {first!r} and {name!r} were evaluated on different data "
                f"({len(ours[task]['hits'])} and {len(theirs[task]['hits'])} queries); evaluate "
                "both again"
            )
