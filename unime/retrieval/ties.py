"""Candidates with equal scores: what a ranking is worth that leaves their order open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

DEPTH = 10  # places of a ranking that are ever looked at


@dataclass
class Ties:
    """For each place of each ranking the candidates that share its score: its group. A place that
    none shares is a group of its own. All are (Q, 10) float64.

    Attributes:
        start: how many candidates score higher than the group.
        size: how many are in it.
        right: how many of these are right.
        gain, exponential_gain: their mean gain g, and mean 2^g - 1.
        is_mixed: 1 where the gains of the group differ, so that their order matters.
    """

    start: Tensor
    size: Tensor
    right: Tensor
    gain: Tensor
    exponential_gain: Tensor
    is_mixed: Tensor

    def count(self, depth: int) -> int:
        """How many of its queries have a tie that touches the first `depth` places and decides what
        they are worth."""
        return int(self.is_mixed[:, :depth].any(dim=1).sum())

    @property
    def shared_first(self) -> Tensor:
        """How many candidates share the highest score of each query (Q,); 1: none."""
        return self.size[:, 0].long()

    @property
    def hits(self) -> Tensor:
        """How likely the candidate at each place is right."""
        return self.right / self.size

    def none_so_far(self) -> Tensor:
        """How likely none up to each place is right: within a group, drawn without replacement."""
        wrong = self.size - self.right
        return ((wrong - self._before_in_group) / (self.size - self._before_in_group)).clamp(
            min=0
        ).cumprod(dim=1)  # fmt: skip

    def hits_if_right(self, hits_so_far: Tensor) -> Tensor:
        """How many are right up to each place, in the mean over the orders that have a right one
        there.

        Args:
            hits_so_far: the sums of `hits` up to each place.
        """
        padded = torch.nn.functional.pad(hits_so_far, (1, 0))
        before_group = padded.gather(1, self.start.long().clamp(max=DEPTH))
        others = (self.right - 1).clamp(min=0) / (self.size - 1).clamp(min=1)
        return before_group + 1 + self._before_in_group * others

    @property
    def _before_in_group(self) -> Tensor:
        """How many places of its group come before each place."""
        return torch.arange(DEPTH, dtype=torch.float64) - self.start


def as_ranked(targets: Tensor, relevance: Sequence[Mapping[int, float]]) -> Ties:
    """Rankings (Q, 10) without ties: every place is a group of its own."""
    rows = zip(targets.tolist(), relevance, strict=True)
    found = [[own.get(place, 0.0) for place in row] for row, own in rows]
    gains = torch.tensor(found, dtype=torch.float64).reshape(-1, DEPTH)
    start = torch.arange(DEPTH, dtype=torch.float64).expand_as(gains).clone()
    return Ties(
        start=start,
        size=torch.ones_like(gains),
        right=(gains > 0).double(),
        gain=gains,
        exponential_gain=2**gains - 1,
        is_mixed=torch.zeros_like(gains),
    )


def mark_ties(
    groups: Ties, rows: Tensor, scores: Tensor, columns: Tensor, gains: Tensor, items: Tensor
) -> None:
    """Put the groups of the best places of some queries among `groups`. Candidates that are all
    copies of one item make no group: their order in the list is as good as any.

    Args:
        rows: the queries (q,).
        scores: of all their candidates (q, C).
        columns: of the best of them, in order, -1 where there are no more (q, 10).
        gains: of all candidates (q, C) float64.
        items: which item each candidate is (q, C).
    """
    shown = columns.clamp(min=0)
    values, what = scores.gather(1, shown), items.gather(1, shown)  # (q, 10)
    for place in range(columns.shape[1]):
        fresh = columns[:, place] >= 0
        if place:
            fresh &= values[:, place] != values[:, place - 1]
        at = fresh.nonzero()[:, 0]
        in_group = scores[at] == values[at, place, None]  # (f, C)
        others = in_group & (items[at] != what[at, place, None])
        at, in_group = at[others.any(dim=1)], in_group[others.any(dim=1)]
        if len(at):
            _fill(groups, rows[at].cpu(), place, in_group.cpu(), gains[at].cpu())


def _fill(groups: Ties, at: Tensor, place: int, in_group: Tensor, gains: Tensor) -> None:
    """Put the groups that begin at a place of some rows into all the places that they take."""
    size = in_group.sum(dim=1).double()
    own = gains.where(in_group, 0)
    numbers = {
        "start": torch.full_like(size, place),
        "size": size,
        "right": (own > 0).sum(dim=1).double(),
        "gain": own.sum(dim=1) / size,
        "exponential_gain": (2**own - 1).sum(dim=1) / size,
        "is_mixed": (own.amax(dim=1) > gains.where(in_group, torch.inf).amin(dim=1)).double(),
    }
    places = torch.arange(DEPTH)
    taken = (places >= place) & (places < place + size[:, None])  # (f, 10)
    for name, values in numbers.items():
        matrix = getattr(groups, name)
        matrix[at] = torch.where(taken, values[:, None], matrix[at])


def joined(parts: Sequence[Ties]) -> Ties:
    """Those of several blocks of queries."""
    return Ties(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Ties)))
