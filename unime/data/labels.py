"""What rows say beside their items, as the loss reads it: a judge's scores, and right answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from unime.errors import DataError
from unime.inputs.items import Pair, answer_key


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


def answer_labels(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Keys of the right answers that rows name, 0 where there is none: of their queries,
    "query_answer" (B,); of their targets, and 0 for every negative after them, "target_answer"
    (B + n,)."""
    answers = torch.tensor([answer_key(pair.task, pair.answer) for pair in pairs])
    negatives = sum(len(pair.negatives) for pair in pairs)
    return {
        "query_answer": answers,
        "target_answer": torch.cat([answers, answers.new_zeros(negatives)]),
    }
