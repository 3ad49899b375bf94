"""All figures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.study.compare import Reference
from eval.study.figures.bars import draw_bars, draw_differences
from eval.study.figures.curves import draw_curves, draw_negatives
from eval.study.figures.grid import draw_grid
from eval.study.figures.space import draw_matrices, draw_space
from eval.study.figures.style import Figure, write_list
from eval.study.table import Row
from unime.runtime.files import read_json

MEASURED = "negatives.json"  # of eval.study.negatives, if it lies in the folder


def draw_all(rows: Sequence[Row], reference: Reference, folder: Path) -> list[Figure]:
    """Each that the rows have numbers for, and their list."""
    figures = [*draw_bars(rows, folder), *draw_differences(rows, reference, folder)]
    figures += [*draw_grid(rows, folder), *draw_curves(rows, folder)]
    if (folder / MEASURED).is_file():
        figures += draw_negatives(read_json(folder / MEASURED), folder)
    figures += [*draw_matrices(rows, folder), *draw_space(rows, folder)]
    write_list(folder, figures)
    return figures
