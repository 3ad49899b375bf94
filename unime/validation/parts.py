"""Parts of the data, of which each is held out as a whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choose_parts(
    needs: Sequence[np.ndarray] | np.ndarray, wanted: Sequence[int], seed: int
) -> list[int]:
    """Parts at random, as many as leave no task with more rows than are wanted of it.

    Args:
        needs: of each part, how many rows of each task it has.
        wanted: rows of each task.
    """
    left, chosen = np.array(wanted), []
    for number in np.random.default_rng([seed, 1]).permutation(len(needs)):
        if (needs[number] <= left).all():
            left -= needs[number]
            chosen.append(int(number))
            if not left.any():
                break
    return chosen
