"""The report as one HTML page: scores, similarity matrices, a map of embeddings, and a gallery.

The page is one file that loads nothing: static/ holds its template, style and scripts, which are
put into it together with the data (JSON, which the scripts only ever show as text).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.page.drawn import drawn_figures
from eval.page.files import Files, TaskFiles, item_of, read_model_files
from eval.page.gallery import Items, choose_queries, gallery_card
from eval.page.maps import collapse_of, packed, project, similarity_matrix
from eval.page.pictures import Pictures
from eval.page.scores import (
    our_scores,
    provenance,
    score_tables,
    settings,
    size_curves,
    task_scores,
)
from eval.remarks import notes
from unime.runtime.files import write_aside, writing
from unime.runtime.names import for_others

PARTS = Path(__file__).parent / "static"
SCRIPTS = (
    "elements.js",
    "page.js",
    "scores.js",
    "sizes.js",
    "drawn.js",
    "matrices.js",
    "map.js",
    "gallery.js",
)  # in this order
OWN = ("items", "matrices", "map", "pictures")  # of which the long texts are not for people
SLOT = re.compile(r"\{\{(\w+)\}\}")


def write_page(
    report: dict[str, Any],
    models: dict[str, Path],
    path: Path,
    *,
    examples: int = 8,
    map_points: int = 1000,
    max_megabytes: float = 24,
    figures: Path | None = None,
) -> str:
    """Write the page.

    Args:
        report: the content of report.json.
        models: each model's output folder, with <task>.json and the files beside it.
        examples: queries of each task in the gallery.
        map_points: queries and targets in the map, of all tasks together.
        max_megabytes: of thumbnails; the pictures beyond are left out and counted.
        figures: the folder of those that it shows beside its own.

    Returns:
        How large it is, and what it does not show.

    Raises:
        ConfigError: the page cannot be written.
        DataError: a model's files are damaged.
    """
    files = {name: read_model_files(models[name], report["tasks"]) for name in report["models"]}
    pictures = Pictures()
    content = page_content(report, files, pictures, examples, map_points, max_megabytes)
    page = render(content | {"drawn": drawn_figures(figures)})
    with writing("html", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, page)
    shown = f"{len(content['gallery'])} examples, {len(pictures.uris)} pictures"
    not_shown = "".join(f", {count} {kind}" for kind, count in sorted(pictures.counts.items()))
    return f"written: {path} ({len(page.encode()) / 1e6:.1f} MB: {shown}{not_shown})"


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
) -> dict[str, Any]:
    """Everything that the page shows, as its scripts read it; models and tasks by their place."""
    models, tasks, items = list(report["models"]), list(report["tasks"]), Items(pictures)
    content = {
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "suite": Path(report["suite"]).stem,
        "limit": report["limit"],
        "chance": report["chance"],
        "baseline": models.index(report["baseline"] or models[0]),
        "models": [
            {"name": n, "warnings": report["models"][n]["warnings"], "facts": provenance(files[n])}
            for n in models
        ],
        "settings": settings(list(files.values())),
        "notes": notes(report),
        "overall": {"label": report["overall"], "cells": our_scores(report, report["overall"])},
        "tables": score_tables(report),
        "tasks": [task_scores(report, files, task) for task in tasks],
        "sizes": size_curves(report),
        "gallery": _gallery(tasks, files, examples, items),
        "matrices": [_matrices(_of_task(files, task)) for task in tasks],
        "map": _map(tasks, files, map_points, report["seed"], items),
    }
    pictures.load(int(max_megabytes * 1e6))
    content |= {
        "items": items.content(),
        "pictures": pictures.uris,
        "not_shown": dict(pictures.counts),
        "problems": list(pictures.problems.values())[:20],
    }
    return {key: own if key in OWN else for_others(own) for key, own in content.items()}


def _gallery(tasks: list[str], files: Files, examples: int, items: Items) -> list[dict[str, Any]]:
    """The examples of all tasks. The first of every task ask for their pictures first, so that a
    page at its limit shows some of each."""
    chosen: list[list[tuple[int, int]]] = []
    for place, task in enumerate(tasks):
        found = [m.predictions for m in _of_task(files, task) if m.predictions is not None]
        if found:
            hits = list(zip(*(predictions.hits for predictions in found), strict=True))
            chosen.append([(place, number) for number in choose_queries(hits, examples)])
    cards = [
        gallery_card(number, place, _of_task(files, tasks[place]), items)
        for round_ in zip_longest(*chosen)
        for place, number in filter(None, round_)
    ]
    return sorted(cards, key=lambda card: (card["task"], card["number"]))


def _of_task(files: Files, task: str) -> list[TaskFiles]:
    return [model[task] for model in files.values()]


def _matrices(models: list[TaskFiles]) -> dict[str, Any]:
    """The matrix of each model, and what its rows and columns are."""
    size = next((len(model.sample[0]) for model in models if model.sample is not None), 0)
    known = next((m.predictions for m in models if m.predictions is not None), None)
    rows = [] if known is None else [known[number] for number in range(min(size, len(known)))]
    return {
        "size": size,
        "models": [m.sample and similarity_matrix(*m.sample) for m in models],
        "labels": [[_label(row["query"]), _label(row["gold"][0])] for row in rows],
    }


def _label(found: dict[str, Any]) -> str:
    item = item_of(found)
    parts = [Path(path).name for path in item.images]
    parts += [f"{Path(item.video[0]).parent.name} ({len(item.video)} frames)"] if item.video else []
    words = " ".join([" ".join(item.text.split())[:90], *(f"[{part}]" for part in parts)])
    return str(for_others(words.strip()))


def _map(
    tasks: list[str], files: Files, map_points: int, seed: int, items: Items
) -> dict[str, Any]:
    """The same points for every model: of each task as many queries, and their targets (each
    distinct one once). `pairs` lead from a query to its target."""
    known = [task for task in tasks if any(map(_is_mapped, _of_task(files, task)))]
    share = max(1, map_points // (2 * max(1, len(known))))
    points: list[list[Any]] = []
    pairs: list[list[int]] = []
    vectors: list[list[torch.Tensor | None]] = [[] for _ in files]
    for task in known:
        models = _of_task(files, task)
        first = next(filter(_is_mapped, models))
        assert first.predictions is not None and first.sample is not None
        targets: dict[Any, int] = {}
        for number in range(min(share, len(first.sample[0]), len(first.predictions))):
            row = first.predictions[number]
            query, target = item_of(row["query"]), item_of(row["gold"][0])
            pair = [len(points), targets.get(target, len(points) + 1)]
            points.append([tasks.index(task), 0, items.place(query)])
            if pair[1] == len(points):
                targets[target] = pair[1]
                points.append([tasks.index(task), 1, items.place(target)])
            for own, model in zip(vectors, models, strict=True):
                sides = range(len(points) - pair[0])
                own += [model.sample[side][number] if model.sample else None for side in sides]
            pairs.append(pair)
    stacked = [_stacked(rows) for rows in vectors if points]
    with ThreadPool() as pool:  # t-SNE lets go of Python while it works
        projected = pool.map(partial(project, seed=seed), stacked)
    shown = [item for _, _, item in points]
    return {
        "points": points,
        "pairs": pairs,
        "methods": [method for method, _ in projected],
        "collapsed": [collapse_of(rows, shown) for rows in stacked],
        "places": [packed(places.ravel()) for _, places in projected],
    }


def _is_mapped(model: TaskFiles) -> bool:
    return model.predictions is not None and model.sample is not None


def _stacked(rows: list[torch.Tensor | None]) -> np.ndarray:
    """(P, D); points without an embedding are rows of NaN."""
    width = max((len(row) for row in rows if row is not None), default=1)
    return np.stack([np.full(width, np.nan) if row is None else row.numpy() for row in rows])
