"""Every figure that a study's table has numbers for, as SVG and PNG.

    python -m eval.study.figures runs/study/recipes/table.parquet FOLDER [RECIPE] [KEY=VALUE …]

RECIPE is what others are compared to (else the table's first), with these values of the grid; of
values alone each recipe is compared to its own cell.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eval.study.compare import Reference
from eval.study.figures.draw import draw_all
from eval.study.table import read_table
from unime.runtime.folder_lock import locked
from unime.runtime.program import run_program


def main(words: list[str]) -> None:
    if len(words) < 2 or words[0].startswith("-"):
        raise SystemExit(__doc__)
    table, folder, *rest = words
    rows = read_table(Path(os.path.expanduser(table)))
    values = dict(word.split("=", 1) for word in rest if "=" in word)
    recipe = next((word for word in rest if "=" not in word), None)
    if recipe is None and not values and rows:
        recipe = rows[0]["recipe"]
    place = Path(os.path.expanduser(folder))
    with locked("FOLDER", place):
        figures = draw_all(rows, Reference(recipe, values), place)
    print("\n".join(f"{place / figure.name}.svg: {figure.title}" for figure in figures))


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
