"""The report as one HTML page: scores, similarity matrices, a map of embeddings, and a gallery.

The page is one file that loads nothing: static/ holds its template, style and scripts, which are
put into it together with the data (JSON, which the scripts only ever show as text).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from eval.page.files import TaskFiles, item_of, read_task_files
from eval.page.gallery import Items, choose_queries, gallery_card
from eval.page.maps import collapse_of, packed, project, similarity_matrix
from eval.page.pictures import Pictures
from eval.page.scores import entry, provenance, score_tables, settings, task_scores
from eval.remarks import notes, warnings_of_report
from unime.errors import ConfigError
from unime.runtime.files import write_aside

PARTS = Path(__file__).parent / "static"
SCRIPTS = ("page.js", "scores.js", "matrices.js", "map.js", "gallery.js")  # in this order
SLOT = re.compile(r"\{\{(\w+)\}\}")
Files = dict[str, dict[str, TaskFiles]]  # model -> task -> its files


def write_page(
    report: dict[str, Any],
    models: dict[str, Path],
    path: Path,
    *,
    baseline: str | None = None,
    examples: int = 8,
    map_points: int = 1000,
    max_megabytes: float = 24,
    seed: int = 0,
) -> None:
    """Write the page and say how large it is, and what it does not show.

    Args:
        report: the content of report.json.
        models: each model's output folder, with <task>.json and the files beside it.
        baseline: the model that others are compared with at first; None: the report's own, or the
            first.
        examples: queries of each task in the gallery.
        map_points: queries and targets in the map, of all tasks together.
        max_megabytes: of thumbnails; the pictures beyond are left out and counted.

    Raises:
        ConfigError: no such baseline, or the page cannot be written.
        DataError: a model's files are damaged.
    """
    names = list(report["models"])
    baseline = report.get("baseline") if baseline is None else baseline
    if baseline is not None and baseline not in names:
        raise ConfigError(f"baseline: no model {baseline!r}, expected {', '.join(names)}")
    files = {
        name: {task: read_task_files(Path(models[name]), task) for task in _tasks(report)}
        for name in names
    }
    pictures = Pictures()
    content = page_content(report, files, pictures, examples, map_points, max_megabytes, seed)
    content["baseline"] = 0 if baseline is None else names.index(baseline)
    page = render(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None
    shown = f"{len(content['gallery'])} examples, {len(pictures.uris)} pictures"
    not_shown = "".join(f", {count} {kind}" for kind, count in sorted(pictures.counts.items()))
    print(f"written: {path} ({len(page.encode()) / 1e6:.1f} MB: {shown}{not_shown})")


def render(content: dict[str, Any]) -> str:
    """The page with its data. No text of the data can end the element that holds it."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "css": (PARTS / "page.css").read_text(encoding="utf-8"),
        "js": "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        # Lone surrogates, which a text of the data may hold, have no UTF-8.
        "data": data.encode("utf-8", "replace").decode().replace("<", "\\u003c"),
    }
    template = (PARTS / "template.html").read_text(encoding="utf-8")
    return SLOT.sub(lambda slot: parts[slot[1]], template)


def page_content(
    report: dict[str, Any],
    files: Files,
    pictures: Pictures,
    examples: int,
    map_points: int,
    max_megabytes: float,
    seed: int,
) -> dict[str, Any]:
    """Everything that the page shows, as its scripts read it; models and tasks by their place."""
    tasks, items = _tasks(report), Items(pictures)
    content = {
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "suite": Path(str(report.get("suite", ""))).stem,
        "limit": report.get("limit"),
        "chance": report.get("chance"),
        "models": [
            {"name": n, "warnings": warnings_of_report(report, n), **provenance(files[n])}
            for n in report["models"]
        ],
        "settings": settings(list(files.values())),
        "notes": notes({"differing_settings": {}, "other_sizes": [], **report}),
        "overall": {
            "label": report["overall"],
            "cells": [
                entry(m["averages"].get(report["overall"])) for m in report["models"].values()
            ],
        },
        "tables": score_tables(report),
        "tasks": [task_scores(report, files, task) for task in tasks],
        "gallery": _gallery(tasks, files, examples, items),
        "matrices": [_matrices(task, files) for task in tasks],
        "map": _map(tasks, files, map_points, seed, items),
    }
    pictures.load(int(max_megabytes * 1e6))
    return content | {
        "items": items.content(),
        "pictures": pictures.uris,
        "not_shown": dict(pictures.counts),
        "problems": list(pictures.problems.values())[:20],
    }


def _tasks(report: dict[str, Any]) -> list[str]:
    return list(next(iter(report["models"].values()))["tasks"])


def _gallery(tasks: list[str], files: Files, examples: int, items: Items) -> list[dict[str, Any]]:
    """The examples of all tasks. The first of every task ask for their pictures first, so that a
    page at its limit shows some of each."""
    chosen: list[list[tuple[int, int]]] = []
    for place, task in enumerate(tasks):
        found = [model[task] for model in files.values() if model[task].predictions is not None]
        if found:
            count = len(found[0].predictions or ())
            hits = [[model.is_hit(number) for model in found] for number in range(count)]
            chosen.append([(place, number) for number in choose_queries(hits, examples)])
    cards = [
        gallery_card(number, place, _of_task(files, tasks[place]), items)
        for round_ in zip_longest(*chosen)
        for place, number in filter(None, round_)
    ]
    return sorted(cards, key=lambda card: (card["task"], card["number"]))


def _of_task(files: Files, task: str) -> list[TaskFiles]:
    return [model[task] for model in files.values()]


def _matrices(task: str, files: Files) -> dict[str, Any]:
    """The matrix of each model, and what its rows and columns are."""
    found = _of_task(files, task)
    matrices = [
        None
        if model.queries is None or model.targets is None
        else similarity_matrix(model.queries, model.targets)
        for model in found
    ]
    size = next((len(m.queries) for m in found if m.queries is not None), 0)
    known = next((m.predictions for m in found if m.predictions is not None), None)
    rows = [] if known is None else [known[number] for number in range(min(size, len(known)))]
    labels = [[_label(row["query"]), _label(row["gold"][0])] for row in rows]
    return {"size": size, "models": matrices, "labels": labels}


def _label(found: dict[str, Any]) -> str:
    item = item_of(found)
    parts = [Path(path).name for path in item.images]
    parts += [f"{Path(item.video[0]).parent.name} ({len(item.video)} frames)"] if item.video else []
    return " ".join([" ".join(item.text.split())[:90], *(f"[{part}]" for part in parts)]).strip()


def _map(
    tasks: list[str], files: Files, map_points: int, seed: int, items: Items
) -> dict[str, Any]:
    """The same points for every model: of each task as many queries, and their targets (each
    distinct one once). `pairs` lead from a query to its target."""
    known = [task for task in tasks if any(_has_both(m) for m in _of_task(files, task))]
    share = max(1, map_points // (2 * max(1, len(known))))
    points: list[list[Any]] = []
    pairs: list[list[int]] = []
    vectors: list[list[np.ndarray]] = [[] for _ in files]
    for task in known:
        models = _of_task(files, task)
        first = next(m for m in models if _has_both(m))
        assert first.predictions is not None and first.queries is not None
        targets: dict[Any, int] = {}
        for number in range(min(share, len(first.queries), len(first.predictions))):
            row = first.predictions[number]
            query, target = item_of(row["query"]), item_of(row["gold"][0])
            pair = [len(points), targets.get(target, len(points) + 1)]
            points.append([tasks.index(task), 0, items.place(query)])
            if pair[1] == len(points):
                targets[target] = pair[1]
                points.append([tasks.index(task), 1, items.place(target)])
            for place, model in enumerate(models):
                sides = [model.queries, model.targets][: len(points) - pair[0]]
                vectors[place] += [_row(side, number) for side in sides]
            pairs.append(pair)
    stacked = [_stacked(rows) for rows in vectors if points]
    projected = [project(rows, seed) for rows in stacked]
    shown = [item for _, _, item in points]
    return {
        "points": points,
        "pairs": pairs,
        "methods": [method for method, _ in projected],
        "collapsed": [collapse_of(rows, shown) for rows in stacked],
        "places": [packed(places.ravel()) for _, places in projected],
    }


def _has_both(model: TaskFiles) -> bool:
    return model.predictions is not None and model.queries is not None


def _row(side: Any, number: int) -> np.ndarray:
    return np.full(1, np.nan) if side is None else side[number].numpy()


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """(P, D); points without an embedding are rows of NaN."""
    width = max(map(len, rows))
    return np.stack([row if len(row) == width else np.full(width, np.nan) for row in rows])
