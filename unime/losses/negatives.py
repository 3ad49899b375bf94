"""Which candidates may be whose negatives, by integer keys that are equal for equal items."""

from __future__ import annotations

import torch
from torch import Tensor


class Negatives:
    """Which targets may be whose negatives: different ones that are not known to be right.

    Every target that some row of the batch gives as the positive of an equal query is right, and so
    is any target with a name that an equal query asks for, and any copy of these. Of equal targets
    the first takes part, so that the k hardest are k different ones. ``negatives[start:end]`` is
    the matrix of these queries (B, C).

    Args:
        query_key: equal exactly for equal queries (Q,).
        positive_key: of each query's positive (Q,).
        target_key: of everything in the pool (C,).
        asked: a query's key and a name that it asks for, in any order (M, 2).
        named: a target's key and a name that it goes by (K, 2). None: what the batch itself says is
            all that is known.
    """

    def __init__(
        self,
        query_key: Tensor,
        positive_key: Tensor,
        target_key: Tensor,
        asked: Tensor | None = None,
        named: Tensor | None = None,
    ) -> None:
        keys = torch.cat([target_key, positive_key])
        first = _first_places(keys)  # (C + Q,)
        self._is_first = is_first(target_key)  # (C,)
        self._query = _first_places(query_key)  # (Q,): the first equal one
        self._right = first[len(target_key) :]  # (Q,): the column that takes part for the positive
        self._known = self._right < len(target_key)  # it is in the pool at all
        self._asked: tuple[Tensor, Tensor] | None = None  # places of queries, names (M,)
        if asked is not None and named is not None:
            self._asked = _placed(query_key, asked)
            columns, names = _placed(target_key, named)
            order = names.argsort()
            self._columns, self._names = columns[order], names[order]  # (K,)

    def __getitem__(self, rows: slice) -> Tensor:
        distinct, which = self._query[rows].unique(return_inverse=True)
        line = torch.full_like(self._query, -1)  # (Q,): of each query, in `found`
        line[distinct] = torch.arange(len(distinct), device=line.device)
        line = line[self._query]
        here = (line >= 0) & self._known
        found = self._is_first.repeat(len(distinct), 1)  # (distinct queries, C)
        found[line[here], self._right[here]] = False
        if self._asked is not None:
            places, names = self._asked
            here = line[places] >= 0
            first, last = (
                torch.searchsorted(self._names, names[here], right=right) for right in (False, True)
            )
            counts = last - first
            asking = line[places][here].repeat_interleave(counts)
            ends = counts.cumsum(0)
            within = torch.arange(len(asking), device=line.device)
            answering = within + (last - ends).repeat_interleave(counts)
            found[asking, self._columns[answering]] = False
        return found[which]


def negatives_of(
    query_key: Tensor,
    positive_key: Tensor,
    target_key: Tensor,
    asked: Tensor | None = None,
    named: Tensor | None = None,
) -> Tensor:
    """:class:`Negatives` of all queries at once (Q, C)."""
    return Negatives(query_key, positive_key, target_key, asked, named)[:]


def is_first(keys: Tensor) -> Tensor:
    """True where a key comes for the first time (N,)."""
    return _first_places(keys) == torch.arange(len(keys), device=keys.device)


def _first_places(keys: Tensor) -> Tensor:
    """The first place of each key (N,)."""
    distinct, which = keys.unique(return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    first = places.new_full((len(distinct),), len(keys))
    return first.scatter_reduce(0, which, places, "amin")[which]


def _placed(keys: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
    """The first place of each key of a key and a name (M, 2), and the name, each pair once; without
    keys that are not there."""
    order = keys.argsort(stable=True)
    at = torch.searchsorted(keys[order], named[:, 0].contiguous()).clamp(max=len(keys) - 1)
    places = order[at]
    there = keys[places] == named[:, 0]
    first, names = torch.stack([places, named[:, 1]])[:, there].unique(dim=1)
    return first, names
