"""A training set with a judge's scores, task by task: what `./launch.sh judge` writes.

<output_dir>/
    <task>/train-00000-of-00001.parquet   the rows as they were, with scores of their candidates
    set.json                              a prepared set; who judged, and what came out
    embeddings/                           what the judge found, where the settings name no store
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unime.config import JudgeConfig
from unime.errors import DataError
from unime.inputs.items import Item, Pair
from unime.mining.written_set import WrittenSet
from unime.mining.yes_no import YesNoModel, question_of
from unime.retrieval.encoding import distinct_items
from unime.retrieval.stored import StoredModel
from unime.runtime.distributed import on_main

MINE_THEM = "without which scores say nothing: ./launch.sh mine finds them"


class JudgedSet(WrittenSet):
    """A set in the making."""

    key = "judged"

    def __init__(self, config: JudgeConfig, accelerator: Accelerator) -> None:
        self.config = config
        super().__init__(config, accelerator)
        (self.model,) = self.models
        self.counts: dict[str, dict[str, Any]] = {}

    def _find_models(self) -> list[StoredModel]:
        if self.config.judge.kind == "yes_no":
            return [YesNoModel(self.config, self.accelerator)]
        return [StoredModel(self.config, self.accelerator)]

    def judge(self, task: str) -> str:
        """Score the candidates of one task's rows; a line about it.

        Raises:
            DataError: data that cannot be used, or a failure of the model, on any rank.
        """
        subset, pairs = self._load(task)
        scores = self._scores(pairs, task)
        found = on_main(self.accelerator, lambda: self._write(task, pairs, scores, subset.dropped))
        self.counts[task] = found
        left_out = f"; {len(subset.dropped):,} bad rows left out" if subset.dropped else ""
        if not found["negatives"]:
            left_out += f"; no row has negatives, {MINE_THEM}"
        return (
            f"{task}: {len(pairs):,} rows; targets score {found['targets']:.3f} on average,"
            f" {found['negatives']:,} negatives {found['negative_score']:.3f}, of which"
            f" {found['above']:,} more than their target; {found['left_out']:,} are left"
            f" out{left_out}"
        )

    def finish(self) -> None:
        """Write set.json, on the main process: the set is whole.

        Raises:
            DataError: nothing was judged but right answers.
        """
        if not any(counts["negatives"] for counts in self.counts.values()):
            raise DataError(f"{self.config.data.root}: no row has negatives, {MINE_THEM}")
        rows = {task: counts["rows"] for task, counts in self.counts.items()}
        self._write_set({"tasks": self.counts}, rows)

    def _scores(self, pairs: Sequence[Pair], task: str) -> list[Tensor]:
        """Of each row, its target's and its negatives' (1 + n,); on the main process."""
        items, places = self._asked(pairs)
        distinct = distinct_items(self.accelerator, items)
        self.model.complete(distinct, task)

        def read() -> list[Tensor]:
            store = self.model.store
            assert store is not None

            def of(own: Sequence[int]) -> Tensor:
                numbers = distinct.index[list(own)].tolist()
                return store.embeddings([distinct.keys[number] for number in numbers])

            if self.config.judge.kind == "yes_no":
                return [of(own)[:, 0] for own in places]
            return [(vectors := of(own))[1:] @ vectors[0] for own in places]

        return on_main(self.accelerator, read)

    def _asked(self, pairs: Sequence[Pair]) -> tuple[list[Item], list[range]]:
        """What the model is shown, and the places of each row's share: a question for each
        candidate, or the query and the candidates."""
        items: list[Item] = []
        places = []
        for pair in pairs:
            candidates = (pair.target, *pair.negatives)
            first = len(items)
            if self.config.judge.kind == "yes_no":
                try:
                    question = self.config.judge.question
                    items += [question_of(pair.query, one, question) for one in candidates]
                except DataError as error:
                    raise DataError(f"row {pair.row_id}: {error}") from None
            else:
                items += [pair.query, *candidates]
            places.append(range(first, len(items)))
        return items, places

    def _write(
        self, task: str, pairs: Sequence[Pair], scores: Sequence[Tensor], dropped: list[str]
    ) -> dict[str, Any]:
        """The rows with their scores, on the main process; what came out."""
        margin = self.config.judge.false_negative_margin
        self._write_rows(task, self._rows(pairs, scores, margin), len(pairs))
        targets = torch.stack([own[0] for own in scores])
        negatives = torch.cat([own[1:] for own in scores])
        over = torch.cat([own[1:] - own[0] for own in scores])
        return {
            "rows": len(pairs),
            "targets": float(targets.mean()),
            "negatives": len(negatives),
            "negative_score": float(negatives.mean()) if len(negatives) else 0.0,
            "above": int((over > 0).sum()),
            "left_out": 0 if margin is None else int((over > margin).sum()),
            "bad_rows": dropped,
        }

    def _rows(
        self, pairs: Sequence[Pair], scores: Sequence[Tensor], margin: float | None
    ) -> Iterator[Pair]:
        for pair, own in zip(pairs, scores, strict=True):
            kept = own[1:] - own[0] <= (float("inf") if margin is None else margin)
            negatives = [pair.negatives[number] for number in kept.nonzero()[:, 0].tolist()]
            yield self._relative(pair, negatives, (float(own[0]), *own[1:][kept].tolist()))
