"""What a setting of the grid does: beta with the share that it filters, k, batch size, …"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.study.compare import Arm, arms_of, overall, reached
from eval.study.figures.style import MARKERS, Figure, drawing, look_of, save
from eval.study.table import Row

MOST_PANELS, MOST_LINES = 12, 8
LINE = "stage2.loss.num_hard_negatives"  # what lines are of, where it is not what varies along x
NAMES = {
    "stage2.loss.false_negative_margin": ("beta", "margin β of the filter"),
    "stage2.loss.num_hard_negatives": ("k", "hard negatives k"),
    "stage2.optim.batch_size_per_device": ("batch", "batch on each process"),
    "stage2.loss.temperature": ("temperature", "temperature"),
    "stage2.lora.rank": ("rank", "rank of LoRA"),
}
NULL = "null"


def draw_grid(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """A figure for every key of the grid along which there are several numbers."""
    arms = arms_of(rows)
    keys = list(dict.fromkeys(key for arm in arms for key in arm.values))
    figures = []
    for key in keys:
        values = sorted({arm.values[key] for arm in arms if key in arm.values}, key=_place)
        if len(values) > 1 and any(map(_is_number, values)):
            figures += _draw_key(rows, arms, key, values, folder)
    return figures


def _draw_key(
    rows: Sequence[Row], arms: Sequence[Arm], key: str, values: Sequence[str], folder: Path
) -> list[Figure]:
    own = [arm for arm in arms if key in arm.values]
    line = LINE if key != LINE and any(LINE in arm.values for arm in own) else ""

    def panel_of(arm: Arm) -> str:
        rest = {k: v for k, v in arm.values.items() if k not in (key, line)}
        return " ".join([arm.recipe, *(f"{name_of(k)[0]}={v}" for k, v in rest.items())])

    groups = list(dict.fromkeys(map(panel_of, own)))
    lines = list(dict.fromkeys(arm.values.get(line, "") for arm in own))
    if len(groups) > MOST_PANELS or len(lines) > MOST_LINES:
        return []
    main, (short, label) = overall(rows), name_of(key)
    filtered = short == "beta"
    columns = min(4, len(groups))
    per_row = columns * (1 + filtered)
    with drawing(per_row, -(-len(groups) // columns)) as (canvas, panels):
        for panel in panels:
            panel.set_visible(False)
        for number, group in enumerate(groups):
            place = number * (1 + filtered)
            panel = panels[place]
            for turn, which in enumerate(lines):
                line_of = (arm for arm in own if arm.values.get(line, "") == which)
                found = {arm.values[key]: arm for arm in line_of if panel_of(arm) == group}
                known = [value for value in values if value in found]
                estimates = [reached(found[value], main) for value in known]
                spots = [values.index(value) for value in known]
                style = look_of(turn)
                _line(panel, spots, estimates, style, f"k = {_word(which, LINE)}" if line else None)
                if filtered:
                    shares = [_filtered(found[value]) for value in known]
                    panels[place + 1].plot(spots, shares, **style)
            _finish(panel, group, key, values, f"{main.label}, %")
            if line and number == 0:
                panel.legend()
            if filtered:
                _finish(panels[place + 1], group, key, values, "negatives that are filtered, %")
                panels[place + 1].set_ylim(bottom=0)
        title = f"{main.label} by {label}, with 95 % intervals over seeds and queries"
        best = max(own, key=lambda arm: reached(arm, main).value)
        text = f"The highest is {best.name}: {100 * reached(best, main).value:.1f} %."
        return [save(canvas, folder, Figure(short, title, text))]


def _line(panel, spots, estimates, style, label) -> None:  # type: ignore[no-untyped-def]
    """Means joined by a line, each with its interval."""
    shift = 0.06 * MARKERS.index(style["marker"])
    values = np.array([100 * e.value for e in estimates])
    ends = np.array([[100 * end for end in e.ci95] for e in estimates]).reshape(-1, 2)
    errors = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
    panel.errorbar(np.array(spots) + shift, values, yerr=errors, capsize=2, elinewidth=0.9,
                   linewidth=1.2, markersize=5, label=label, **style)  # fmt: skip


def _finish(panel, title, key, values, quantity) -> None:  # type: ignore[no-untyped-def]
    panel.set_visible(True)
    panel.set_title(title)
    panel.set_xticks(range(len(values)), [_word(value, key) for value in values])
    panel.set_xlabel(name_of(key)[1])
    panel.set_ylabel(quantity)


def _filtered(arm: Arm) -> float:
    """The mean share of the negatives that the filter dropped in training, in %."""
    curves = [row.get("curve/stage2/filtered_share") or [float("nan")] for row in arm.rows]
    return 100 * float(np.mean([np.mean([v for v in c if v is not None]) for c in curves]))


def name_of(key: str) -> tuple[str, str]:
    """Of a file, and of an axis."""
    return NAMES.get(key, (key.replace(".", "_"), key))


def _word(value: str, key: str) -> str:
    """Without a number of hard negatives all count, without any other setting there is none."""
    none = "all" if key == LINE else "none"
    return none if value == NULL else value


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _place(value: str) -> tuple[bool, float, str]:
    """Numbers by size, then the others."""
    return (not _is_number(value), float(value) if _is_number(value) else 0.0, value)
