"""The space of embeddings before and after: similarity matrices, alignment and uniformity, and the
gap between pictures and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.page.files import read_task_files
from eval.study.compare import Arm, arms_of
from eval.study.figures.style import MOST_ARMS, Figure, drawing, left_out, looks_of, save
from eval.study.table import Row

MATRICES = 4  # of the first arms, each of its first seed
KEYS = ("alignment", "uniformity", "gap")


def draw_space(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """Alignment against uniformity, and the gap of each arm: means over tasks and seeds."""
    found = [arm for arm in arms_of(rows) if means(arm, "alignment") is not None]
    arms = found[:MOST_ARMS]
    if not arms:
        return []
    labels, looks = [arm.name for arm in arms], looks_of(rows)
    with drawing(2, 1, 3.6, 3.0, labels) as (canvas, (scatter, bars)):
        for number, arm in enumerate(arms):
            across, up = means(arm, "uniformity"), means(arm, "alignment")
            look = looks[arm.name]
            scatter.plot(across, up, linestyle="", markersize=7, label=arm.name, **look)
            bars.barh(number, means(arm, "gap"), height=0.7, color=look["color"])
        scatter.set_xlabel("uniformity (lower: more even)")
        scatter.set_ylabel("alignment (lower: nearer)")
        canvas.legend(*scatter.get_legend_handles_labels(), loc="outside right upper")
        bars.set_yticks(range(len(arms)), labels)
        bars.invert_yaxis()
        bars.grid(visible=False, axis="y")
        bars.set_xlabel("gap: distance of the two means")
        title = "Alignment, uniformity and the gap between queries and targets: means over tasks"
        text = "; ".join(
            f"{arm.name}: " + ", ".join(f"{key} {means(arm, key):.2f}" for key in KEYS)
            for arm in arms
        )
        text += f".{left_out(found)}"
        return [save(canvas, folder, Figure("space", title, text))]


def means(arm: Arm, key: str) -> float | None:
    """Over tasks and seeds; None: nothing was sampled."""
    values = [v for row in arm.rows for name, v in row.items() if name.startswith(f"{key}/")]
    return float(np.mean(values)) if values else None


def draw_matrices(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """The similarities of the first queries of a task with the right target of each; nothing where
    the evaluations are not at hand."""
    arms = _telling([arm for arm in arms_of(rows) if Path(arm.rows[0]["folder"]).is_dir()])
    if not arms:
        return []
    task = next(iter(arms[0].hits))
    samples = {arm.name: read_task_files(Path(arm.rows[0]["folder"]), task).sample for arm in arms}
    found = {name: sample for name, sample in samples.items() if sample is not None}
    if not found:
        return []
    with drawing(len(found), 1, 2.5, 2.6) as (canvas, panels):
        image = None
        for panel, (name, (queries, targets)) in zip(panels, found.items(), strict=True):
            image = panel.imshow((queries @ targets.T).numpy(), vmin=-0.2, vmax=1, cmap="cividis")
            panel.set_title(name.replace(" ", "\n"), fontsize=8)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(visible=False)
        canvas.colorbar(image, ax=panels, shrink=0.8, label="cosine")
        panels[0].set_ylabel("queries")
        panels[0].set_xlabel("right targets")
        title = f"{task}: cosines of queries and right targets before and after (first seed)"
        text = "; ".join(
            f"{name}: {_contrast((q @ t.T).numpy()):+.2f} on the diagonal above the rest"
            for name, (q, t) in found.items()
        )
        return [save(canvas, folder, Figure("matrices", title, text))]


def _telling(arms: Sequence[Arm]) -> list[Arm]:
    """Before, between and after, if they are there; else the first ones."""
    wanted = ("base", "stage1-only", "infonce-after-stage1", "unime")
    named = [arm for name in wanted for arm in arms if arm.name == name]
    return (named or list(arms))[:MATRICES]


def _contrast(matrix: np.ndarray) -> float:
    own = np.trace(matrix) / len(matrix)
    others = (matrix.sum() - np.trace(matrix)) / max(1, matrix.size - len(matrix))
    return float(own - others)
