"""Scores, settings and provenance for the page of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.page_files import TaskFiles

LABELS = {"ind": "IND", "ood": "OOD"}  # other keys are shown as they are, without underscores
APART = ("meta_tasks", "tasks", "averages")  # of a model in the report: no averages themselves
PACKAGES = ("torch", "transformers", "sentence-transformers", "python")
Files = dict[str, dict[str, TaskFiles]]


def entry(found: Any) -> list[float] | None:
    """[score, low, high] of an entry of the report; None: it is none, or has no score."""
    if not isinstance(found, dict) or not isinstance(found.get("score"), int | float):
        return None
    low, high = found.get("ci95") or (found["score"], found["score"])
    return [round(number, 5) for number in (found["score"], low, high)]


def averages(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every average that the report has, by name: meta-tasks first, then the means over them."""
    rows: dict[str, list[list[float] | None]] = {}
    models = list(report["models"].values())
    for place, model in enumerate(models):
        named = model.get("averages") or {k: v for k, v in model.items() if k not in APART}
        for key, found in {**model.get("meta_tasks", {}), **named}.items():
            if entry(found) is not None:
                rows.setdefault(key, [None] * len(models))[place] = entry(found)
    return [{"key": key, "label": _label(key), "cells": cells} for key, cells in rows.items()]


def _label(key: str) -> str:
    return LABELS.get(key, key.replace("_", " "))


def published(report: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    """The rows of papers and leaderboards that the report stands beside."""
    rows = []
    for row in report.get("published") or []:
        values = row.get("averages") or row.get("scores") or row
        numbers = {key: values[key] for key in keys if isinstance(values.get(key), int | float)}
        name = str(row.get("name") or row.get("model") or "?")
        rows.append({"name": name, "source": str(row.get("source", "")), "scores": numbers})
    return [row for row in rows if row["scores"]]


def task_scores(report: dict[str, Any], files: Files, task: str) -> dict[str, Any]:
    found = [model["tasks"].get(task) for model in report["models"].values()]
    first = next((one for one in found if entry(one) is not None), {})
    results = [model[task].result for model in files.values()]
    return {
        "name": task,
        **{key: results[0].get(key) for key in ("meta_task", "distribution", "modality")},
        "metric": first.get("metric") or results[0].get("metric") or "hit@1",
        "num_queries": first.get("num_queries"),
        "chance": first.get("chance"),
        "scores": [entry(one) for one in found],
        "not_supported": [result.get("not_supported") for result in results],
        "without_examples": [model[task].predictions is None for model in files.values()],
        "differences": _differences(report, task),
    }


def _differences(report: dict[str, Any], task: str) -> dict[str, list[float]]:
    """"model|baseline" -> difference and its interval, where the report has paired ones."""
    found: dict[str, list[float]] = {}
    paired = report.get("paired")
    for key, pair in paired.items() if isinstance(paired, dict) else ():
        one = pair.get("tasks", {}).get(task) if isinstance(pair, dict) else None
        if isinstance(one, dict) and "difference" in one:
            found[key] = [one["difference"], *one.get("ci95", [])]
    return found


def settings(models: list[dict[str, TaskFiles]]) -> list[dict[str, Any]]:
    """What the models were given: prompt, frames, resolution …; `differs` where they were not
    given the same."""
    inputs = [next(iter(model.values())).result for model in models]
    keys = dict.fromkeys(key for result in inputs for key in result.get("inputs") or {})
    rows = [("encoder", [str(result.get("encoder", "unime")) for result in inputs])]
    rows += [(key, [_said((r.get("inputs") or {}).get(key)) for r in inputs]) for key in keys]
    return [
        {"name": name.replace("_", " "), "values": values, "differs": len(set(values)) > 1}
        for name, values in rows
    ]


def _said(value: Any) -> str:
    return "default" if value is None else str(value)


def provenance(files: dict[str, TaskFiles]) -> dict[str, Any]:
    """Where the numbers of one model come from."""
    results = [found.result for found in files.values()]
    seconds = sum(result.get("seconds") or 0 for result in results)
    encoded = sum(result.get("num_encoded") or 0 for result in results)
    versions = {
        f"{name} {result['versions'][name]}"
        for result in results
        for name in PACKAGES
        if name in (result.get("versions") or {})
    }
    facts = {
        "model": _each(results, "model"),
        "adapter": _each(results, "adapter"),
        "commit": ", ".join(sorted({str(r.get("commit"))[:10] for r in results})),
        "versions": ", ".join(sorted(versions)),
        "device": _each(results, "device"),
        "seconds": round(seconds, 1),
        "items encoded": encoded,
        "items / s": round(encoded / seconds, 1) if seconds else None,
        "texts cut": sum(result.get("num_truncated") or 0 for result in results),
        "rows left out": sum(len(result.get("left_out") or []) for result in results),
        "tasks not supported": sum("not_supported" in result for result in results),
    }
    return {"facts": facts}


def _each(results: list[dict[str, Any]], key: str) -> str:
    found = {str(result[key]) for result in results if result.get(key)}
    return ", ".join(sorted(name if len(name) < 60 else "…/" + Path(name).name for name in found))
