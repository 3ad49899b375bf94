"""How figures look, and how they are written: SVG and PNG, the same bytes for the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.study.compare import arms_of
from eval.study.table import Row
from unime.errors import require_package
from unime.runtime.files import replacing, write_aside

LISTED = "figures.json"
# Okabe and Ito's, which colour-blind people tell apart; yellow, pale on white, last
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#555555",
    "#882255",
    "#f0e442",
)
MARKERS = "osD^vPXh"  # one fewer: both together repeat after 72
MOST_ARMS = 16  # of a figure that can be read
LETTER = 0.075  # inches
SETTINGS: Any = {  # matplotlib's own type lists every name that it knows
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "unime",
    "svg.fonttype": "none",  # texts as texts
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
}


@dataclass(frozen=True)
class Figure:
    """One that is drawn.

    Attributes:
        name: of its files, without the ending.
        title: what it shows, in a line.
        text: what can be seen in it, for whoever does not see it.
    """

    name: str
    title: str
    text: str


def look_of(number: int) -> dict[str, str]:
    """Colour and marker of the arm of a number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def looks_of(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Of every arm of a study by its name, the same in all figures."""
    return {arm.name: look_of(number) for number, arm in enumerate(arms_of(rows))}


def left_out(arms: Sequence[Any]) -> str:
    """How many a figure of the first arms does not show, in words."""
    count = len(arms) - MOST_ARMS
    return f" Not shown: {count} more." if count > 0 else ""


@contextmanager
def drawing(
    columns: int, rows: int = 1, width: float = 3.2, height: float = 2.7, labels: Sequence[str] = ()
) -> Iterator[Any]:
    """A figure of so many panels, and these as a list.

    Args:
        width, height: of a panel, in inches.
        labels: names that stand left of the first panel, which needs more room for them.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_package("matplotlib", "study", "figures")
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(SETTINGS):
        beside = LETTER * max(map(len, labels), default=0)
        canvas = Canvas(figsize=(width * columns + beside, height * rows))
        panels = canvas.subplots(rows, columns, squeeze=False)
        yield canvas, list(panels.flat)


def save(canvas: Any, folder: Path, figure: Figure) -> Figure:
    """Both files of a figure, each whole or as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with replacing(folder / f"{figure.name}.{ending}") as aside:
            canvas.savefig(aside, format=ending, metadata=metadata)
    return figure


def write_list(folder: Path, figures: Sequence[Figure]) -> None:
    """Which there are, in order, for a page."""
    write_aside(folder / LISTED, json.dumps([asdict(f) for f in figures], indent=1) + "\n")
