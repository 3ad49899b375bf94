"""Loss and gradient norm while training, as stage 2 of each recipe has them; and of easy, random
and hard negatives, the figure of the paper (eval/study/negatives.py measures it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.study.compare import Arm, arms_of
from eval.study.figures.style import MOST_ARMS, Figure, drawing, left_out, look_of, looks_of, save
from eval.study.table import Row

SHOWN = {"loss": "loss", "grad_norm": "norm of the gradient", "effective_rank": "effective rank"}
CURVE = "curve/stage2/"


def draw_curves(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """The mean over seeds, of the first arms that have a stage 2."""
    found = [arm for arm in arms_of(rows) if f"{CURVE}step" in arm.rows[0]]
    arms = found[:MOST_ARMS]
    if not arms:
        return []
    looks = looks_of(rows)
    with drawing(len(SHOWN)) as (canvas, panels):
        for panel, (key, label) in zip(panels, SHOWN.items(), strict=True):
            for arm in arms:
                steps, values = _mean(arm, key)
                panel.plot(steps, values, markersize=3, label=arm.name, **looks[arm.name])
            panel.set_xlabel("step")
            panel.set_title(label)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        title = "Stage 2 while it trains: the mean over seeds"
        text = f"Losses of different recipes are of different negatives: {_names(arms)}."
        text += left_out(found)
        return [save(canvas, folder, Figure("training", title, text))]


def _mean(arm: Arm, key: str) -> tuple[list[float], list[float]]:
    curves = [row[CURVE + key] for row in arm.rows if row.get(CURVE + key)]
    steps = arm.rows[0][f"{CURVE}step"]
    size = min([len(steps), *map(len, curves)])
    table = np.array([c[:size] for c in curves], dtype=float).reshape(-1, size)
    return steps[:size], (table.mean(axis=0) if len(table) else np.full(size, np.nan)).tolist()


def _names(arms: Sequence[Arm]) -> str:
    return ", ".join(arm.name for arm in arms)


def draw_negatives(measured: Mapping[str, Any], folder: Path) -> list[Figure]:
    """Loss and gradient norm of the same batches with easy, random and hard negatives.

    Args:
        measured: what eval/study/negatives.py writes.
    """
    kinds = list(measured["kinds"])
    with drawing(2) as (canvas, panels):
        for panel, key, label in zip(
            panels, ("loss", "grad_norm"), ("loss", "norm of the gradient"), strict=True
        ):
            for number, kind in enumerate(kinds):
                points = measured["kinds"][kind]
                steps = [point["step"] for point in points]
                panel.plot(steps, [point[key] for point in points], markersize=4, label=kind,
                           **look_of(number))  # fmt: skip
            panel.set_yscale("log")
            panel.set_xlabel("step of stage 2")
            panel.set_title(label)
        shown = panels[0].get_legend_handles_labels()
        title = f"{measured['k']} negatives a query"
        canvas.legend(*shown, loc="outside right upper", title=title)
        last = {kind: measured["kinds"][kind][-1] for kind in kinds}
        text = "At the end: " + "; ".join(
            f"{kind}: loss {one['loss']:.3g}, gradient {one['grad_norm']:.3g}"
            for kind, one in last.items()
        )
        title = "Loss and gradient norm of the same batches with easy, random and hard negatives"
        return [save(canvas, folder, Figure("negatives", title, text))]
