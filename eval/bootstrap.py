"""Bootstrap over the queries of a task: how sure a mean, or a difference of two means, is.

Drawing n of n queries with replacement is a multinomial draw over the distinct values that they
have (a binomial one for hits and misses), so no query is drawn one by one. Tasks are drawn
independently of each other; the samples of an average are the averages of the tasks' samples.

Of several seeds these are drawn as well, the same ones for all tasks, as clusters: every query is
answered by every seed, so seeds and queries are drawn across each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


AT_ONCE = 1 << 22  # drawn numbers in memory


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and queries, or the difference of two.

    Attributes:
        ci95: its 95 % interval; of one seed over queries alone.
        seeds: of each seed.
    """

    value: float
    ci95: list[float]
    seeds: list[float]

    @property
    def is_noise(self) -> bool:
        """Whether 0 is inside of the interval."""
        return self.ci95[0] <= 0 <= self.ci95[1]


def over_seeds(
    values: Mapping[str, np.ndarray],
    average: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    samples: int,
    seed: int,
) -> Estimate:
    """An average of tasks, sure as far as seeds and queries make it so.

    What few seeds cannot tell widens the interval: the seeds' part of a sample is scaled by
    sqrt(S / (S - 1)), by which its variance has no bias (Rao and Wu, 1988), and the whole by how
    much wider Student's distribution is than the normal one at the degrees of freedom that both
    parts have together (Satterthwaite).

    Args:
        values: task -> (S, Q) of each seed's queries, for a difference the paired differences.
        average: of a value a task, or of an array of them.
    """
    count = len(next(iter(values.values())))
    means = {task: own.mean(axis=1) for task, own in values.items()}  # (S,)
    seeds = np.asarray(average(means), dtype=np.float64)  # (S,)
    value = float(seeds.mean())
    random = np.random.default_rng([seed, count])
    drawn = random.multinomial(count, np.full(count, 1 / count), size=samples) / count  # (B, S)
    widened = 1 / count + (drawn - 1 / count) * np.sqrt(count / max(1, count - 1))
    of_tasks = {task: _drawn(own, widened, seed, task) for task, own in values.items()}  # (B,)
    drawn_values = np.asarray(average(of_tasks))
    if count > 1:
        of_seeds, of_queries = seeds.var(ddof=1) / count, _of_queries(values, average)
        drawn_values = value + (drawn_values - value) * _wider(of_seeds, of_queries, count - 1)
    return Estimate(value, interval(drawn_values), seeds.tolist())


def _of_queries(
    values: Mapping[str, np.ndarray], average: Callable[[Mapping[str, np.ndarray]], np.ndarray]
) -> float:
    """The variance of an average that drawing its queries makes."""
    found = 0.0
    for task, own in values.items():
        share = float(average({name: np.array(float(name == task)) for name in values}))
        found += share**2 * float(own.mean(axis=0).var()) / own.shape[1]
    return found


def _drawn(values: np.ndarray, weights: np.ndarray, seed: int, task: str) -> np.ndarray:
    """The mean of (S, Q) values in each resampling of its queries (B,).

    Args:
        weights: of the seeds (B, S).
    """
    random = np.random.default_rng([seed, zlib.crc32(task.encode())])
    size = values.shape[1]
    found = []
    for some in np.array_split(weights, max(1, len(weights) * size // AT_ONCE)):
        queries = random.multinomial(size, np.full(size, 1 / size), size=len(some)) / size  # (b, Q)
        found.append(((some @ values) * queries).sum(axis=1))
    return np.concatenate(found)


def _wider(of_seeds: float, of_queries: float, freedom: int) -> float:
    """By what an interval is wider whose variance is the sum of one with so few degrees of freedom
    and one with many."""
    from scipy.stats import t  # slow to import, and needed for several seeds alone

    if of_seeds <= ALMOST_ZERO:
        return 1.0
    together = freedom * ((of_seeds + of_queries) / of_seeds) ** 2
    return float(t.ppf(0.975, together) / t.ppf(0.975, 1e9))
