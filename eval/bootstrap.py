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


Averaging = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # of a value, or an array, a task


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


@dataclass(frozen=True)
class Draws:
    """Tasks that several seeds have answered, and resamplings of both.

    Attributes:
        seeds: task -> the mean of each seed (S,).
        drawn: task -> the mean of each resampling (B,).
        of_queries: task -> the variance of its mean that drawing its queries makes.
    """

    seeds: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    of_queries: dict[str, float]

    @classmethod
    def of(cls, values: Mapping[str, np.ndarray], samples: int, seed: int) -> Draws:
        """Of each task's seeds and queries (S, Q), for a difference the paired differences.

        A seed's part of a sample is scaled by sqrt(S / (S - 1)), by which its variance has no bias
        (Rao and Wu, 1988).
        """
        count = len(next(iter(values.values())))
        random = np.random.default_rng([seed, count])
        drawn = random.multinomial(count, np.full(count, 1 / count), size=samples)  # (B, S)
        scale = np.sqrt(count / max(1, count - 1)) / count
        weights = 1 / count + (drawn - 1) * scale  # (B, S)
        return cls(
            {task: own.mean(axis=1) for task, own in values.items()},
            {task: _drawn(own, weights, seed, task) for task, own in values.items()},
            {task: float(own.mean(axis=0).var()) / own.shape[1] for task, own in values.items()},
        )

    def estimate(self, average: Averaging) -> Estimate:
        """An average of tasks, sure as far as seeds and queries make it so: the interval is wider
        than the draws by as much as Student's distribution is wider than the normal one at the
        degrees of freedom that both parts of the variance have together (Satterthwaite)."""
        seeds = np.asarray(average(self.seeds), dtype=np.float64)  # (S,)
        value, count = float(seeds.mean()), len(seeds)
        drawn = np.asarray(average(self.drawn))
        if count > 1:
            of_queries = 0.0
            for task, variance in self.of_queries.items():
                share = average({name: np.array(float(name == task)) for name in self.seeds})
                of_queries += float(share) ** 2 * variance
            of_seeds = float(seeds.var(ddof=1)) / count
            drawn = value + (drawn - value) * _wider(of_seeds, of_queries, count - 1)
        return Estimate(value, interval(drawn), seeds.tolist())


def _drawn(values: np.ndarray, weights: np.ndarray, seed: int, task: str) -> np.ndarray:
    """The mean of (S, Q) values in each resampling of its queries (B,).

    Args:
        weights: of the seeds (B, S).
    """
    random = np.random.default_rng([seed, zlib.crc32(task.encode())])
    distinct, counts = np.unique(values, axis=1, return_counts=True)  # (S, V)
    size = int(counts.sum())
    queries = random.multinomial(size, counts / size, size=len(weights)) / size  # (B, V)
    drawn: np.ndarray = ((weights @ distinct) * queries).sum(axis=1)
    return drawn


def _wider(of_seeds: float, of_queries: float, freedom: int) -> float:
    """By what an interval is wider whose variance is the sum of one with so few degrees of freedom
    and one with many."""
    from scipy.stats import t  # slow to import, and needed for several seeds alone

    if of_seeds <= ALMOST_ZERO**2:
        return 1.0
    together = freedom * ((of_seeds + of_queries) / of_seeds) ** 2
    return float(t.ppf(0.975, together) / t.ppf(0.975, 1e9))
