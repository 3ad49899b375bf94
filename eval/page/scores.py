"""Scores, settings and provenance for the page of the report."""

from __future__ import annotations

from typing import Any

from eval.page.files import Files, TaskFiles
from eval.remarks import said
from eval.results import TaskResult
from unime.runtime.names import for_others


def our_scores(report: dict[str, Any], key: str) -> list[list[float] | None]:
    """[score, low, high] of every model for an average or a task; None: it cannot do it."""
    entries = [(model["averages"] | model["tasks"])[key] for model in report["models"].values()]
    return [None if e["score"] is None else _rounded(e["score"], *e["ci95"]) for e in entries]


def _rounded(*numbers: float) -> list[float]:
    return [round(number, 5) for number in numbers]


def score_tables(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The averages of our models, and for each benchmark the published rows beside ours; the former
    only where they have more than one of the latter shows."""
    benchmarks = [_benchmark(report, found) for found in report["published"].values()]
    keys = _ordered(report)
    if any(set(keys) <= {column["key"] for column in table["columns"]} for table in benchmarks):
        return benchmarks
    columns = [{"key": key, "label": _label(report, key)} for key in keys]
    own = {"title": "Averages", "columns": columns, "ours": _ours(report, keys), "published": []}
    return [own, *benchmarks]


def _ordered(report: dict[str, Any]) -> list[str]:
    """The keys of the averages: the overall one first, then those of a whole modality, then of its
    meta-tasks, so that a wide table begins with what is looked for."""
    kinds = ("micro", "macro", "ind", "ood")
    averages = report["averages"]
    modalities = list(dict.fromkeys(average["modality"] for average in averages.values()))

    def place(key: str) -> tuple[bool, bool, int, int]:
        kind = averages[key]["kind"]
        rank = kinds.index(kind) if kind in kinds else len(kinds)
        modality = modalities.index(averages[key]["modality"])
        return key != report["overall"], "/" in key, modality, rank

    return sorted(averages, key=place)


def _label(report: dict[str, Any], key: str) -> str:
    """ "vqa" of "image/vqa" and "IND" of "image-ind", with the modality where there are several."""
    modality = report["averages"][key]["modality"]
    several = len({average["modality"] for average in report["averages"].values()} - {None}) > 1
    if not modality or not key.startswith((f"{modality}/", f"{modality}-i", f"{modality}-o")):
        return key
    short = key[len(modality) + 1 :].replace("_", " ")
    short = short.upper() if short in ("ind", "ood") else short
    return f"{short} ({modality})" if several else short


def _ours(report: dict[str, Any], keys: list[str]) -> list[list[list[float] | None]]:
    """A row a model: what it has for each key, of an average or a task."""
    return [list(cells) for cells in zip(*(our_scores(report, key) for key in keys), strict=True)]


def _benchmark(report: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Published scores are per cent; the best row first, by the report's main average."""
    labels, keys = list(found["columns"]), list(found["columns"].values())
    main = labels[keys.index(report["overall"])] if report["overall"] in keys else labels[-1]
    rows = sorted(found["rows"], key=lambda row: -row["scores"].get(main, -1))
    return {
        "title": "; ".join(filter(None, [found["title"], found["note"]])),
        "columns": [{"key": k, "label": name} for name, k in zip(labels, keys, strict=True)],
        "ours": _ours(report, keys),
        "published": [_published(row, labels) for row in rows],
    }


def _published(row: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    printed = [f"{score} printed as overall" for score in row["printed"].values()]
    remarks = [row["source"], row["note"], *printed]
    scores = [row["scores"].get(label) for label in labels]
    return {
        "name": row["name"],
        "remark": "; ".join(filter(None, remarks)),
        "scores": [None if score is None else round(score / 100, 5) for score in scores],
    }


def task_scores(report: dict[str, Any], files: Files, task: str) -> dict[str, Any]:
    models = [model[task] for model in files.values()]
    scores = [model.result.scores for model in models]
    return {
        "name": task,
        **report["tasks"][task],
        "num_queries": next((found.num_queries for found in scores if found is not None), None),
        "scores": our_scores(report, task),
        "not_supported": [model.result.not_supported for model in models],
        "without_examples": [model.predictions is None for model in models],
        "differences": {  # "model|baseline" -> difference and its interval
            key: _rounded(entry["difference"], *entry["ci95"])
            for key, pair in report["paired"].items()
            for entry in [pair["tasks"].get(task)]
            if entry is not None
        },
    }


def size_curves(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every average and task that was scored by size: for each model [size, score, low, high],
    the smallest first; none where it was not."""
    models = [model["dimensions"] for model in report["models"].values()]
    names = {key: _label(report, key) for key in _ordered(report)} | {t: t for t in report["tasks"]}
    return [
        {
            "label": label,
            "chance": _chance(report, key),
            "models": [
                [[int(n), *_rounded(e["score"], *e["ci95"])] for n, e in own.get(key, {}).items()]
                for own in models
            ],
        }
        for key, label in names.items()
        if any(key in own for own in models)
    ]


def _chance(report: dict[str, Any], key: str) -> float | None:
    first = next(iter(report["models"].values()))
    chance: float | None = (first["averages"] | first["tasks"])[key]["chance"]
    return chance


def settings(models: list[dict[str, TaskFiles]]) -> list[dict[str, Any]]:
    """What the models were given: prompt, frames, resolution …; `differs` where those that have the
    setting were not given the same."""
    inputs = [next(iter(model.values())).result for model in models]
    keys = dict.fromkeys(key for result in inputs for key in result.inputs)
    rows: list[tuple[str, list[Any]]] = [("encoder", [result.encoder for result in inputs])]
    rows += [(key, [result.inputs.get(key) for result in inputs]) for key in keys]
    return [
        {
            "name": name.replace("_", " "),
            "values": [said(value) for value in values],
            "common": said(next((value for value in values if value is not None), None)),
            "differs": len({str(value) for value in values if value is not None}) > 1,
        }
        for name, values in rows
    ]


def provenance(files: dict[str, TaskFiles]) -> dict[str, Any]:
    """Where the numbers of one model come from."""
    results = [found.result for found in files.values()]
    scores = [result.scores for result in results if result.scores is not None]
    seconds = sum(found.seconds for found in scores)
    encoded = sum(found.num_encoded for found in scores)
    versions = {
        f"{package} {version}"
        for result in results
        for package, version in result.versions.items()
        if version
    }
    return {
        "model": _each(results, "model"),
        "adapter": _each(results, "adapter"),
        "commit": ", ".join(sorted({result.commit[:10] for result in results})),
        "versions": ", ".join(sorted(versions)),
        "device": _each(results, "device"),
        "seconds": round(seconds, 1),
        "items encoded": encoded,
        "items / s": round(encoded / seconds, 1) if seconds else None,
        "texts cut": sum(found.num_truncated for found in scores),
        "rows left out": sum(len(result.left_out) for result in results),
        "tasks not supported": len(results) - len(scores),
    }


def _each(results: list[TaskResult], key: str) -> str:
    found = {getattr(result, key) for result in results if getattr(result, key)}
    return ", ".join(sorted(map(for_others, found)))
