"""The curve of a report: what is left of each model's scores in vectors of fewer dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.bootstrap import drawn_means, interval
from eval.remarks import NONE, Report
from eval.report.averages import Average
from eval.report.table import ends, percent
from eval.results import Scores

Curve = dict[str, dict[str, Any]]  # size -> score and its interval


def sizes_of(
    done: Mapping[str, Scores], averages: Mapping[str, Average], samples: int, seed: int
) -> dict[str, Curve]:
    """Of one model the curve of each average and task; what was not scored by size has none, and
    an average those sizes that all of its tasks have.

    Args:
        done: the tasks that it can do.
        samples, seed: of the bootstrap.
    """
    sized = {task: scores.dimensions for task, scores in done.items() if scores.dimensions}
    exact: dict[str, dict[str, float]] = {}  # size -> task -> score
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for task, own in sized.items():
        for size, found in own.items():
            exact.setdefault(size, {})[task] = float(np.mean(found["values"]))
            means = drawn_means(found["values"], samples, seed, task)
            drawn.setdefault(size, {})[task] = means
    curves = {
        key: {
            size: {"score": float(average.of(exact[size])), "ci95": interval(average.of(known))}
            for size, known in drawn.items()
            if set(average.tasks) <= known.keys()
        }
        for key, average in averages.items()
    }
    curves |= {
        task: {
            size: {
                "score": exact[size][task],
                "ci95": interval(drawn[size][task]),
                "metrics": found["metrics"],
            }
            for size, found in own.items()
        }
        for task, own in sized.items()
    }
    in_order = {
        key: sorted(curve.items(), key=lambda of: int(of[0])) for key, curve in curves.items()
    }
    return {key: dict(curve) for key, curve in in_order.items() if curve}


def sizes_table(report: Report) -> list[list[str]]:
    """Header and a row a model: the overall average at each size; empty where there is none."""
    curves = {
        name: model["dimensions"][report["overall"]]
        for name, model in report["models"].items()
        if report["overall"] in model["dimensions"]
    }
    sizes = sorted({int(size) for curve in curves.values() for size in curve})

    def cell(entry: dict[str, Any] | None) -> str:
        return NONE if entry is None else f"{percent(entry['score'])} [{ends(entry['ci95'])}]"

    rows = [
        [name, *(cell(curve.get(str(size))) for size in sizes)] for name, curve in curves.items()
    ]
    return [["dimensions", *map(str, sizes)], *rows] if rows else []


def sizes_title(report: Report) -> str:
    return f"{report['overall']} by the first coordinates of each vector, 95 % intervals"
