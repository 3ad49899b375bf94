"""What a collapsed model is: the one rule for training, evaluation, report, page, export and card.

A collapsed model gives different items nearly one embedding. Its rankings are noise, and neither
its loss nor a map of its embeddings shows it. Numbers in, words out.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

MIN_ITEMS = 8  # of fewer the rank says nothing: it is at most their number
ONE_POINT = 0.999  # mean similarity from which fewer are one point
# (mean similarity from which a row holds, effective rank up to which it says "collapsed").
LIMITS = (
    (0.99, inf),  # logits at temperature 0.05 differ by 0.2 on average: nothing is left to rank by
    (0.95, 16.0),  # high alone is no collapse: what is not common to all must be poor too
    (-1.0, 3.0),  # two or three points (every picture here, every text there), however far apart
)
ITEMS_A_DIRECTION = 8  # a limit of the rank is never above an eighth of the number of items
COLLAPSED_STEPS = 10  # in a row, after the warm-up
STATISTICS = ("mean_similarity", "effective_rank", "distinct_items")  # of a batch: losses.spread


def collapsed(mean_similarity: float, effective_rank: float, num_items: int) -> str | None:
    """Whether embeddings have collapsed: why, in words; None: they have not.

    A high mean similarity alone is none: training may move all embeddings by one common vector,
    which changes no ranking and neither loss, so .62 is healthy where the teacher has .1, and .9
    with a rank of 30 in 64 items is. Items that are near copies of each other are legitimately
    alike: ask about many different items, or about several batches in a row.

    Args:
        mean_similarity: of two different items' embeddings, equal items counted once; a cosine.
        effective_rank: as :func:`unime.losses.effective_rank`, of the same embeddings.
        num_items: how many different items these are.
    """
    if num_items < MIN_ITEMS:
        has_collapsed = num_items > 1 and mean_similarity >= ONE_POINT
    else:
        highest = next((rank for least, rank in LIMITS if mean_similarity >= least), 0.0)
        if highest < inf:
            highest = min(highest, num_items / ITEMS_A_DIRECTION)
        has_collapsed = effective_rank <= highest
    if not has_collapsed:
        return None
    return (
        f"collapsed: {num_items} different items are hardly told apart (mean similarity"
        f" {mean_similarity:.3f}, effective rank {effective_rank:.1f})"
    )


class CollapseWatch:
    """Follows the statistics of a run's batches (losses.spread), which are equal on every rank.

    One batch may be of near copies, so only :data:`COLLAPSED_STEPS` collapsed ones in a row are a
    collapse; and a base model may begin like one, so the steps of the warm-up do not count.

    Attributes:
        steps: collapsed ones in a row, up to the last.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.steps = 0
        self._warmup_steps = warmup_steps

    def add(self, step: int, values: Mapping[str, float]) -> str | None:
        """Take in step number `step` (from 1); why the run has collapsed, if it has by now."""
        words = of_batch(values)
        self.steps = self.steps + 1 if words and step > self._warmup_steps else 0
        if self.steps < COLLAPSED_STEPS:
            return None
        return f"{words} for {self.steps} steps in a row"


def of_batch(values: Mapping[str, float]) -> str | None:
    """Whether the items of a batch, or those of one of its sides, have collapsed: why, in words."""
    sides = {"": "", "query_": " among the queries", "target_": " among the targets"}
    for prefix, side in sides.items():
        names = [f"{prefix}{name}" for name in STATISTICS]
        if all(name in values for name in names):
            similarity, rank, count = (values[name] for name in names)
            if words := collapsed(similarity, rank, round(count)):
                return words + side
    return None
