"""What rows say beside their items, as the loss reads it: a judge's scores, and what all of them
together say is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unime.data.sampling.answers import ANSWER, QUERY, TARGET
from unime.data.survey import seen_key
from unime.errors import DataError
from unime.inputs.items import Item, Pair


def check_scores(pairs: Iterable[Pair]) -> None:
    """Refuse rows that no judge has scored.

    Raises:
        DataError: the first one.
    """
    for pair in pairs:
        if not pair.scores:
            raise DataError(
                f"row {pair.row_id}: no scores, which loss.soft_labels asks for; ./launch.sh judge"
                " adds them"
            )


def judged_labels(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Scores of all targets, the rows' own and then every negative, and of which row each is: its
    number less how many positives stand up to there, so that it can be told when other ranks' rows
    come before; "score" and "own_query" (B + n,)."""
    scores = [pair.scores[0] for pair in pairs] + [s for pair in pairs for s in pair.scores[1:]]
    own = [-1] * len(pairs)
    for number, pair in enumerate(pairs):
        own += [number - len(pairs)] * len(pair.negatives)
    return {"score": torch.tensor(scores), "own_query": torch.tensor(own)}


class RightAnswers:
    """What all rows of the data say is right for a query: the targets of the rows with an equal
    one, and of all rows with an answer that one of these names.

    A query asks for names, a target goes by names, and is right where the two share one: so ranks
    tell each other of their own items, and explicit negatives, which are some other row's targets,
    are known for what they are. A name is an answer, or one side of a pair that a row gives: of the
    query and the target the one that has more of these, so that a label of a million pictures has
    few names, and a query of as many asks for few. What a batch says by itself has none.

    Args:
        keys: of each row's query and target (N, 2), and of its answer (N, 3), 0 where it is not
            known (:class:`unime.data.survey.Survey`).
    """

    def __init__(self, keys: np.ndarray) -> None:
        pairs = _distinct(keys[:, :2])
        of_query, of_target = (_counts(side) for side in pairs.T)
        by_target = pairs[(of_query > 1) & (of_query <= of_target)]
        by_query = pairs[of_query > of_target]
        query, target = by_query.T
        asked = [by_target, np.column_stack([query, ~query])]  # ~: no target's name
        named = [by_target[:, [TARGET, TARGET]], np.column_stack([target, ~query])]
        if keys.shape[1] > ANSWER:
            answered = keys[keys[:, ANSWER] != 0]
            asked.append(answered[:, [QUERY, ANSWER]])
            named.append(answered[:, [TARGET, ANSWER]])
        self._asked, self._named = (
            np.ascontiguousarray(_distinct(np.concatenate(parts)).T) for parts in (asked, named)
        )

    def __len__(self) -> int:
        """How many names all targets go by; 0: a batch knows all by itself."""
        return self._named.shape[1]

    def labels(self, queries: Mapping[int, Item], targets: Mapping[int, Item]) -> dict[str, Tensor]:
        """What :class:`unime.losses.Negatives` is told: "asked" (M, 2) and "named" (K, 2).

        Args:
            queries, targets: by their keys there.

        Raises:
            DataError: a picture that cannot be read.
        """
        return {"asked": _names(self._asked, queries), "named": _names(self._named, targets)}


def _names(known: np.ndarray, items: Mapping[int, Item]) -> Tensor:
    """The key of each item with each of its names (M, 2).

    Args:
        known: items as the survey knows them, in order, and a name of each (2, K).
    """
    wanted = np.array([seen_key(item) for item in items.values()], np.int64)
    first, last = (np.searchsorted(known[0], wanted, side) for side in ("left", "right"))
    counts = last - first
    places = np.arange(counts.sum()) + np.repeat(last - counts.cumsum(), counts)
    own = np.repeat(np.array(list(items), np.int64), counts)
    return torch.from_numpy(np.column_stack([own, known[1, places]]))


def _distinct(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, in order (N, 2)."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    is_other = np.ones(len(pairs), dtype=bool)
    is_other[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[is_other]


def _counts(keys: np.ndarray) -> np.ndarray:
    """How often each key is there (N,)."""
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[which]
