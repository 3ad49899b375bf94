"""Which candidates may be whose negatives, by integer keys that are equal for equal items."""

from __future__ import annotations

import torch
from torch import Tensor


class Negatives:
    """Which targets may be whose negatives: different ones that are not known to be right.

    Every target that some row of the batch gives as the positive of an equal query is right, and so
    is any target of an answer that an equal query has, and any copy of these. Of equal targets the
    first takes part, so that the k hardest are k different ones. ``negatives[start:end]`` is the
    matrix of these queries (B, C).

    Args:
        query_key: equal exactly for equal queries (Q,).
        positive_key: of each query's positive (Q,).
        target_key: of everything in the pool (C,).
        query_answer, target_answer: equal for what has the same right answer (Q,) and (C,), 0 where
            it is not known; None: of none it is.
    """

    def __init__(
        self,
        query_key: Tensor,
        positive_key: Tensor,
        target_key: Tensor,
        query_answer: Tensor | None = None,
        target_answer: Tensor | None = None,
    ) -> None:
        keys = torch.cat([target_key, positive_key])
        first = _first_places(keys)  # (C + Q,)
        self._is_first = is_first(target_key)  # (C,)
        self._query = _first_places(query_key)  # (Q,): the first equal one
        self._right = first[len(target_key) :]  # (Q,): the column that takes part for the positive
        self._known = self._right < len(target_key)  # it is in the pool at all
        self._answer, self._named = query_answer, keys.new_empty(2, 0)
        if target_answer is not None:  # answers with the columns that take part for them (2, N)
            named = torch.stack([target_answer, first[: len(target_key)]])
            self._named = named[:, target_answer != 0].unique(dim=1)

    def __getitem__(self, rows: slice) -> Tensor:
        distinct, which = self._query[rows].unique(return_inverse=True)
        line = torch.full_like(self._query, -1)  # (Q,): of each query, in `found`
        line[distinct] = torch.arange(len(distinct), device=line.device)
        line = line[self._query]
        here = (line >= 0) & self._known
        found = self._is_first.repeat(len(distinct), 1)  # (distinct queries, C)
        found[line[here], self._right[here]] = False
        if self._answer is not None:
            here = (line >= 0) & (self._answer != 0)
            lines, answers = torch.stack([line, self._answer])[:, here].unique(dim=1)
            asked, named = (answers[:, None] == self._named[0]).nonzero(as_tuple=True)
            found[lines[asked], self._named[1][named]] = False
        return found[which]


def negatives_of(
    query_key: Tensor,
    positive_key: Tensor,
    target_key: Tensor,
    query_answer: Tensor | None = None,
    target_answer: Tensor | None = None,
) -> Tensor:
    """:class:`Negatives` of all queries at once (Q, C)."""
    return Negatives(query_key, positive_key, target_key, query_answer, target_answer)[:]


def is_first(keys: Tensor) -> Tensor:
    """True where a key comes for the first time (N,)."""
    return _first_places(keys) == torch.arange(len(keys), device=keys.device)


def _first_places(keys: Tensor) -> Tensor:
    """The first place of each key (N,)."""
    distinct, which = keys.unique(return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    first = places.new_full((len(distinct),), len(keys))
    return first.scatter_reduce(0, which, places, "amin")[which]
