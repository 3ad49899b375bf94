"""The results of evaluations, read back: which may be averaged and compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from eval.tasks.suites import Task
from unime.errors import DataError

NEEDED = {  # of each task's file
    "task": str,
    "metric": str,
    "num_rows": int,
    "settings_fingerprint": str,
    "data_fingerprint": str,
    "commit": str,
}
NEEDED_OF_SCORED = {
    "score": float,
    "values": list,
    "metrics": dict,
    "mean_similarity": float,
    "effective_rank": float,
    "num_items": int,
    "num_queries": int,
    "tied_queries": int,
    "seconds": float,
}
NUMBER = (int, float)
OPTIONAL: dict[str, type | tuple[type, ...]] = {  # null, or left out, where there is none
    "chance": NUMBER, "num_queries": int, "num_encoded": int, "num_truncated": int,
    "seconds": NUMBER, "left_out": list, "values": list, "metrics": dict, "inputs": dict,
    "versions": dict, "encoder": str, "model": str, "adapter": str, "device": str,
    "not_supported": str, "shown": dict, "tied_queries": int, "num_items": int, "ci95": list,
}  # fmt: skip
OF_A_COMMON_KIND = (  # of "inputs"
    *("num_frames", "resolution", "prompt", "max_image_pixels", "max_tiles", "max_text_tokens"),
)
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
    results = {n: _read_task(folder / f"{n}.json", n, task) for n, task in suite.items()}
    by_settings = {result["settings_fingerprint"]: task for task, result in results.items()}
    if len(by_settings) > 1:
        tasks = " and ".join(list(by_settings.values())[:2])
        raise DataError(
            f"model {name!r}: {folder} holds results of different settings or models, such as "
            f"{tasks}; evaluate again"
        )
    return results


def scored(results: Results) -> Results:
    """Those of tasks that the model can do."""
    return {task: found for task, found in results.items() if found.get("not_supported") is None}


def _read_task(path: Path, name: str, task: Task) -> dict[str, Any]:
    refused = f"{path}: not a result of an evaluation"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{refused}: {error}") from None
    if not isinstance(result, dict):
        raise DataError(f"{refused}: expected an object")
    is_scored = result.get("not_supported") is None
    for key, kind in (NEEDED | (NEEDED_OF_SCORED if is_scored else {})).items():
        value = result.get(key)
        if not (is_number(value) if kind is float else isinstance(value, kind)):
            older = key == "tied_queries" and value is None  # right by the order of the candidates
            what = "ties are not counted in it, evaluate again" if older else f"{key} is {value!r}"
            raise DataError(f"{refused}: {what}")
    problem = problem_of_kinds(result)
    if problem is not None:
        raise DataError(f"{refused}: {problem}")
    if result["task"] != name:
        raise DataError(f"{path}: holds the result of task {result['task']!r}")
    if result["metric"] != task.metric:
        raise DataError(f"{path}: scored by {result['metric']}, the suite says {task.metric}")
    if is_scored:
        problem = _problem_of_values(result)
        if problem:
            raise DataError(f"{refused}: {problem}")
    return result


def is_number(value: Any) -> bool:
    """Neither true or false, nor NaN, nor infinite."""
    return isinstance(value, NUMBER) and not isinstance(value, bool) and math.isfinite(value)


def problem_of_kinds(result: dict[str, Any]) -> str | None:
    """What of a result is not of its kind."""
    for key, kind in OPTIONAL.items():
        value = result.get(key)
        right = is_number(value) if kind in (NUMBER, int) else True
        if value is not None and not (right and isinstance(value, kind)):
            return f"{key} is {value!r}"
    for key in ("values", "metrics"):
        numbers = result.get(key) or []
        for value in numbers.values() if isinstance(numbers, dict) else numbers:
            if not is_number(value):
                return f"{key} hold {value!r}, expected numbers"
    return None


def _problem_of_values(result: dict[str, Any]) -> str | None:
    values, score = result["values"], result["score"]
    numbers = all(-1e-6 <= value <= 1 + 1e-6 for value in values)
    if not values or not numbers:
        return "values are not a list of numbers in [0, 1]"
    between = sum(value not in (0, 1) for value in values)
    if result["metric"].startswith("hit@") and between > result["tied_queries"]:
        return (
            f"{between} values of {result['metric']} are neither 0 nor 1, of queries without a tie"
        )
    if result["metric"] not in result["metrics"]:
        return f"metrics have no {result['metric']}"
    try:
        limit = result["config"]["data"]["limit"]
    except (KeyError, TypeError):
        return "config.data.limit is not there"
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return f"config.data.limit is {limit!r}"
    if not math.isclose(score, math.fsum(values) / len(values), abs_tol=1e-4):
        return f"score is {score}, the mean of its values {math.fsum(values) / len(values)}"
    if len(values) > result["num_rows"]:
        return f"{len(values)} values of {result['num_rows']} rows"
    return None


def query_limit(name: str, results: Results) -> int | None:
    """To how many queries every task of a model was cut (data.limit), None: it has them all.

    Raises:
        DataError: tasks that were cut differently.
    """
    rows = {task: result["num_rows"] for task, result in results.items()}
    limits = {task: result["config"]["data"]["limit"] for task, result in results.items()}
    counts = {
        task: rows[task] if limit is None else min(rows[task], limit)
        for task, limit in limits.items()
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
        if any(ours[task][key] != theirs[task][key] for key in ("data_fingerprint", "num_rows")):
            sizes = [len(found[task].get("values", [])) for found in (ours, theirs)]
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
    found: dict[str, dict[str, Any]] = {}
    for key in OF_A_COMMON_KIND if videos else OF_A_COMMON_KIND[1:]:
        values = {
            name: next(iter(results.values())).get("inputs", {}) for name, results in models.items()
        }
        own = {n: v[key] for n, v in values.items() if (v or {}).get(key) is not None}
        if len({str(value) for value in own.values()}) > 1:
            found[key] = own
    shown = {n: next(iter(results.values())).get("shown") or {} for n, results in models.items()}
    budgets = {n: own["pixel_budget"] for n, own in shown.items() if "pixel_budget" in own}
    if len({str(value) for value in budgets.values()}) > 1:
        found["pixel_budget"] = budgets
    return found
