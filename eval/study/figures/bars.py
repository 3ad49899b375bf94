"""What every recipe reaches on every kind of task, and what it is better or worse by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.study.compare import Arm, Reference, arms_of, averages, difference, overall, reached
from eval.study.figures.style import COLOURS, MOST_ARMS, Figure, drawing, save
from eval.study.table import Row


def draw_bars(rows: Sequence[Row], folder: Path) -> list[Figure]:
    """Bars with intervals, a panel for each meta-task and one for the mean of tasks."""
    arms, found = arms_of(rows), averages(rows)
    if not arms or len(arms) > MOST_ARMS:
        return []
    shown = [a for a in found.values() if a.kind == "meta_task" and a.modality != "text"]
    shown = [*shown, overall(rows)]
    places, labels = range(len(arms)), [arm.name for arm in arms]
    width, height = 1.5 if len(shown) > 2 else 2.8, 0.8 + 0.25 * len(arms)
    with drawing(len(shown), 1, width, height, labels) as (canvas, panels):
        for panel, average in zip(panels, shown, strict=True):
            estimates = [reached(arm, average) for arm in arms]
            values = [100 * e.value for e in estimates]
            ends = [[100 * (e.value - e.ci95[0]) for e in estimates],
                    [100 * (e.ci95[1] - e.value) for e in estimates]]  # fmt: skip
            ends = [[max(0.0, end) for end in side] for side in ends]
            colours = [COLOURS[_recipes(arms).index(arm.recipe) % len(COLOURS)] for arm in arms]
            panel.barh(places, values, xerr=ends, color=colours, height=0.7,
                       error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "#222222"})  # fmt: skip
            panel.set_title(average.label.replace(" (", "\n("))
            panel.set_yticks(list(places), labels if panel is panels[0] else [])
            panel.invert_yaxis()
            panel.grid(visible=False, axis="y")
            panel.set_xlabel("hit@1 in %")
        seeds = max(len(arm.seeds) for arm in arms)
        best = max(arms, key=lambda arm: reached(arm, overall(rows)).value)
        title = f"hit@1 of each recipe, with 95 % intervals over seeds ({seeds}) and queries"
        text = f"The highest {overall(rows).label} is that of {best.name}."
        return [save(canvas, folder, Figure("recipes", title, text))]


def draw_differences(rows: Sequence[Row], reference: Reference, folder: Path) -> list[Figure]:
    """By how much each arm is better than what it is compared to."""
    arms = arms_of(rows)
    pairs = [(arm, other) for arm in arms if (other := reference.of(arm, arms)) is not None]
    if not pairs or len(pairs) > 2 * MOST_ARMS:
        return []
    main = overall(rows)
    apart = {arm.name: difference(arm, other, main) for arm, other in pairs}
    found = {name: estimate for name, estimate in apart.items() if estimate is not None}
    if not found:
        return []
    labels = list(found)
    with drawing(1, 1, 5.5, 0.9 + 0.25 * len(found), labels) as (canvas, (panel,)):
        for place, estimate in enumerate(found.values()):
            colour = "#777777" if estimate.is_noise else COLOURS[estimate.value < 0]
            low, high = (100 * end for end in estimate.ci95)
            panel.plot([low, high], [place, place], color=colour, linewidth=1.6)
            panel.plot(100 * estimate.value, place, "o", color=colour, markersize=5)
            seeds = [100 * value for value in estimate.seeds]
            panel.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=7)
        panel.axvline(0, color="#222222", linewidth=0.8)
        panel.set_yticks(range(len(found)), labels)
        panel.invert_yaxis()
        panel.set_xlabel(f"difference of {main.label}, points; grey: within noise; |: each seed")
        clear = [name for name, estimate in found.items() if not estimate.is_noise]
        title = f"Differences to {reference.label}, paired by seed and query, 95 % intervals"
        text = f"Outside of noise: {', '.join(clear) or 'none'}."
        return [save(canvas, folder, Figure("differences", title, text))]


def _recipes(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(arm.recipe for arm in arms))
