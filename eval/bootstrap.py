"""Bootstrap over the queries of a task: how sure a mean, or a difference of two means, is.

Drawing n of n queries with replacement is a multinomial draw over the distinct values that they
have (a binomial one for hits and misses), so no query is drawn one by one. Tasks are drawn
independently of each other; the samples of an average are the averages of the tasks' samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

ALMOST_ZERO = 1e-12  # sums of floats that should be 0 are not quite


def drawn_means(
    values: Sequence[float] | np.ndarray, samples: int, seed: int, task: str
) -> np.ndarray:
    """The mean of `values` in each of so many resamplings.

    Args:
        values: (Q) of the queries of a task.
        task: makes the draws of every task its own, whichever others are in the report.

    Returns:
        (samples)
    """
    random = np.random.default_rng([seed, zlib.crc32(task.encode())])
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)  # (V)
    size = int(counts.sum())
    drawn = random.multinomial(size, counts / size, size=samples)  # (samples, V)
    return np.asarray(drawn @ distinct / size)


def interval(drawn: np.ndarray) -> list[float]:
    """The 95 % percentile interval."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [float(low), float(high)]


def two_sided_p(drawn: np.ndarray) -> float:
    """How likely a difference of this sign is if there is none: twice the smaller share of samples
    on either side of 0, counting the observed difference as one more sample (never quite 0)."""
    below = 1 + int((drawn <= ALMOST_ZERO).sum())
    above = 1 + int((drawn >= -ALMOST_ZERO).sum())
    return min(1.0, 2 * min(below, above) / (len(drawn) + 1))
